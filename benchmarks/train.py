"""Speed and quality of training beside loops written by hand, JAX, NumPyro and pythae, in one run.

    python benchmarks/train.py --root data --epochs 10 --json benchmarks/results/train.json

All train 784-200-200-50 (`--width`) with batch 128 (`--batch`), Adam at 1e-3 and dynamic binarisation, one draw, on
one thread or on `--device`, on the full MNIST or its first `--num-train` digits.

    torch         a loop in plain torch over a tensor in memory, fused Adam, eager: the baseline of `x`
    torch.compile the same, its loss compiled; on a GPU alone, where the peers below are left out
    DataLoader    a loop as one writes it first, torchvision's MNIST with ToTensor in a shuffled DataLoader, for which
                  it waits more than it trains
    pythae        its VAE and BaseTrainer, without evaluation
    NumPyro       SVI.update under jit, scanned over an epoch
    JAX           the same by hand
    pyrovae       one call of `pyrovae.fit` with everything on: logging, pictures, checkpoints

`semi` is semi-amortized: K = 10 Adam steps on λ at 0.03 from the encoder's, then the decoder learns at the last λ and
the encoder by the slope at the first; torch and JAX by hand do the same work; our safeguard
is off. Ours and semi of all have path gradients, the amortized loops closed-form KL or, NumPyro,
Trace_ELBO; that moves seconds little.

`images/s` is of whole calls in seconds of the processor, start-up and compiling included; `epoch` the fastest epoch.
What is not installed (`pip install -e '.[peers]'`) is left out, and null in the JSON.
"""

import argparse
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import peers
import torch
from timing import TimedData, clock, parser, save
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

import pyrovae as pv

Report = Callable[[float], None]
OPTIONS: dict[str, dict[str, Any]] = {
    "eager": {"engine": "eager"},
    "compiled": {"engine": "compiled"},
    "compiled, bfloat16": {"engine": "compiled", "use_amp": True},
}
SHAPE, Z_DIM, LR = (1, 28, 28), 50, 1e-3
NUM_STEPS, INNER_LR = 10, 0.03


class How(NamedTuple):
    """What all contestants share."""

    seed: int
    batch: int
    width: int
    device: str


def networks(how: How) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder; the same weights for all contestants."""
    torch.manual_seed(how.seed)
    net: dict[str, Any] = {"widths": (how.width, how.width), "activation": "relu"}  # as all contestants have it
    encoder, decoder = pv.nets.MLP(SHAPE, (2 * Z_DIM,), **net), pv.nets.MLP((Z_DIM,), SHAPE, **net)
    return encoder.to(how.device), decoder.to(how.device)


def recon(decoder: nn.Module, z: Tensor, x: Tensor) -> Tensor:
    return -binary_cross_entropy_with_logits(decoder(z), x, reduction="none").flatten(1).sum(1)


def elbo(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """One-sample ELBO (B,) with closed-form KL, by hand."""
    loc, log_scale = encoder(x).chunk(2, -1)
    z = loc + log_scale.exp() * torch.randn_like(loc)
    return recon(decoder, z, x) - 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(1)


def path_elbo(decoder: nn.Module, params: Tensor, x: Tensor) -> Tensor:
    """One-sample ELBO (B,) at λ with path gradients, by hand."""
    loc, log_scale = params.chunk(2, -1)
    z = loc + log_scale.exp() * torch.randn_like(loc)
    loc, log_scale = loc.detach(), log_scale.detach()
    log_q = -0.5 * ((z - loc) / log_scale.exp()) ** 2 - log_scale
    return recon(decoder, z, x) - 0.5 * (z**2).sum(1) - log_q.sum(1)


def amortized_loss(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    return -elbo(encoder, decoder, x).mean()


def semi_loss(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """K steps on λ; the decoder's loss there, and for the encoder the inner product of λ₀ with the slope at it."""
    start = encoder(x)
    params = start.detach().requires_grad_()
    optimizer = torch.optim.Adam([params], lr=INNER_LR, fused=True)
    slopes = []
    for _ in range(NUM_STEPS):
        (params.grad,) = torch.autograd.grad(-path_elbo(decoder, params, x).sum(), params)
        slopes.append(params.grad)
        optimizer.step()
    return -path_elbo(decoder, params.detach(), x).mean() + (slopes[0] * start).sum() / len(x)


def by_torch(
    grey: Tensor, epochs: int, how: How, loss_of: Callable[..., Tensor], report: Report
) -> tuple[nn.Module, nn.Module]:
    """The plain loop over pixels (N, 1, 28, 28) in memory."""
    encoder, decoder = networks(how)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=LR, fused=True)
    for _ in range(epochs):
        start = clock()
        for rows in torch.randperm(len(grey), device=grey.device).split(how.batch):
            loss = loss_of(encoder, decoder, torch.bernoulli(grey[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        report(clock() - start)
    return encoder, decoder


def by_loader(root: str, num: int, epochs: int, how: How, report: Report) -> tuple[nn.Module, nn.Module]:
    """The loop that waits for its DataLoader."""
    encoder, decoder = networks(how)
    images = Subset(MNIST(root, transform=ToTensor()), range(num))
    loader = DataLoader(images, batch_size=how.batch, shuffle=True)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=LR)
    for _ in range(epochs):
        start = clock()
        for grey, _ in loader:
            loss = amortized_loss(encoder, decoder, torch.bernoulli(grey.to(how.device)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        report(clock() - start)
    return encoder, decoder


def by_pyrovae(
    data: TimedData, scheme: str, epochs: int, how: How, report: Report, **options: Any
) -> tuple[nn.Module, nn.Module]:
    """The same through the library."""
    encoder, decoder = networks(how)
    model = pv.VAE(pv.models.priors.StandardNormal(Z_DIM), decoder, pv.models.likelihoods.Bernoulli(3))
    family, data.report = pv.DiagonalNormal(Z_DIM), report
    guide: pv.Guide = pv.AmortizedGuide(family, encoder)
    if scheme == "semi":
        refiner = pv.SVIRefiner(num_steps=NUM_STEPS, lr=INNER_LR, optimizer="adam", safeguard=False)
        guide = pv.SemiAmortizedGuide(model, family, encoder, refiner)
    with TemporaryDirectory() as folder:
        options |= {"optimizer": "adam", "lr_schedule": "constant", "lr": LR, "batch_size": how.batch}
        options |= {"seed": how.seed, "progress": False}
        options |= {"accelerator": "cpu" if how.device == "cpu" else "gpu"}
        pv.fit(model, guide, data, epochs=epochs, run_dir=folder, **options)  # type: ignore[arg-type]
    return encoder, decoder


def arguments() -> argparse.Namespace:
    """Of the command line."""
    options = parser(__doc__)
    options.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    options.add_argument("--num-train", type=int, default=60000, help="of its digits")
    options.add_argument("--epochs", type=int, default=10, help="of amortized training")
    options.add_argument("--semi-epochs", type=int, default=3, help="of semi-amortized training")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--batch", type=int, default=128, help="datapoints a batch")
    options.add_argument("--width", type=int, default=200, help="hidden units of each of the two layers")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of all but peers")
    options.add_argument("--only", nargs="+", help="contestants whose names begin so, beside the baseline")
    return options.parse_args()


def main() -> None:
    args = arguments()
    how = How(args.seed, args.batch, args.width, args.device)

    train, test = (MNIST(args.root, train=train).data[:, None] for train in (True, False))
    train = train[: args.num_train]
    # The hold-outs are token: the contest is about training, and all are scored below by the same formula.
    images = pv.data.Dataset("mnist", "full MNIST", train, test[:128], test[:128], "dynamic")
    data = TimedData(images, print)
    scored = pv.data.Dataset("mnist", "full MNIST", train, test, test, "dynamic")
    x = torch.cat(list(scored.batches("test", 1000)))
    x, grey, nets, on_cpu = (
        x.to(how.device),
        train.to(how.device).float() / 255,
        partial(networks, how),
        how.device == "cpu",
    )
    contestants: dict[str, Any] = {}
    for scheme, epochs, loss in (("amortized", args.epochs, amortized_loss), ("semi", args.semi_epochs, semi_loss)):
        of: dict[str, Any] = {"torch": partial(by_torch, grey, epochs, how, loss)}
        inner = (NUM_STEPS, INNER_LR) if scheme == "semi" else None
        of["JAX"] = peers.jax_trainer(nets, grey, epochs, how.batch, LR, inner) if on_cpu else None
        if scheme == "amortized":
            of["torch.compile"] = None if on_cpu else partial(by_torch, grey, epochs, how, torch.compile(loss))
            of["DataLoader"] = partial(by_loader, args.root, len(train), epochs, how)
            of["pythae"] = peers.pythae_trainer(nets, grey, epochs, how.batch, LR) if on_cpu else None
            of["NumPyro"] = peers.numpyro_trainer(nets, grey, epochs, how.batch, LR) if on_cpu else None
        of |= {
            f"pyrovae, {label}": partial(by_pyrovae, data, scheme, epochs, how, **options)
            for label, options in OPTIONS.items()
        }
        contestants |= {f"{scheme}, {name}": (scheme, epochs, run) for name, run in of.items()}
    rows: dict[str, dict[str, Any] | None] = {}
    print(f"seed {how.seed}, {len(train)} digits\n\n| | epochs | images/s | x | epoch, s | x | test ELBO at λ₀ |")
    print("|---" * 7 + "|")
    for name, (scheme, epochs, run) in contestants.items():
        baseline = f"{scheme}, torch"
        if args.only and name != baseline and not name.startswith(tuple(args.only)):
            continue
        if run is None:
            rows[name] = None
            continue
        of_epochs: list[float] = []
        start = clock()
        encoder, decoder = run(of_epochs.append)
        seconds = clock() - start
        torch.manual_seed(0)
        with torch.no_grad():
            scores = elbo(encoder.to(how.device), decoder.to(how.device), x)  # Lightning leaves them on the CPU
        row: dict[str, Any] = {
            "epochs": epochs,
            "seconds": seconds,
            "images_per_second": epochs * len(train) / seconds,
            "seconds_an_epoch": min(of_epochs),
            "test_elbo": scores.mean().item(),
            "test_elbo_se": (scores.std() / len(x) ** 0.5).item(),
        }
        first = rows.setdefault(baseline, row) or row
        row["speed_ratio"] = row["images_per_second"] / first["images_per_second"]
        row["epoch_ratio"] = first["seconds_an_epoch"] / row["seconds_an_epoch"]
        rows[name] = row
        print(
            f"| {name} | {epochs} | {row['images_per_second']:.0f} | {row['speed_ratio']:.2f} "
            f"| {row['seconds_an_epoch']:.2f} | {row['epoch_ratio']:.2f} "
            f"| {row['test_elbo']:.2f} ± {row['test_elbo_se']:.2f} |",
            flush=True,
        )
    save(args.json, rows, num_train=len(train), **how._asdict())


if __name__ == "__main__":
    main()

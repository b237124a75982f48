"""Speed and quality of training beside loops written by hand, JAX, NumPyro and pythae, in one run.

    python benchmarks/train.py --root data --epochs 10 --json benchmarks/results/train.json

All train 784-200-200-50 with batch 128, Adam at 1e-3 and dynamic binarisation, one draw, on one thread, on the full
MNIST or its first `--num-train` digits.

    torch         a loop in plain torch over a tensor in memory, fused Adam, eager: the baseline of `x`
    DataLoader    a loop as one writes it first, torchvision's MNIST with ToTensor in a shuffled DataLoader, for which
                  it waits more than it trains
    pythae        its VAE and BaseTrainer, without evaluation
    NumPyro       SVI.update under jit, scanned over an epoch
    JAX           the same by hand
    pyrovae       one call of `pyrovae.fit` with everything on: logging, pictures, checkpoints

`semi` is semi-amortized: K = 10 Adam steps on λ at 0.03 from the encoder's, then the decoder learns at the last λ and
the encoder by the slope at the first; torch and JAX by hand do the same work, but for our safeguard, which scores both
ends with four draws. Ours and semi of all have path gradients, the amortized loops closed-form KL or, NumPyro,
Trace_ELBO; that moves seconds little.

`images/s` is of whole calls in seconds of the processor, start-up and compiling included; `epoch` the fastest epoch.
What is not installed (`pip install -e '.[peers]'`) is left out, and null in the JSON.
"""

from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

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
SHAPE, WIDTHS, Z_DIM, BATCH, LR = (1, 28, 28), (200, 200), 50, 128, 1e-3
NUM_STEPS, INNER_LR = 10, 0.03


def networks(seed: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder; the same weights for all contestants."""
    torch.manual_seed(seed)
    return pv.nets.MLP(SHAPE, (2 * Z_DIM,), widths=WIDTHS), pv.nets.MLP((Z_DIM,), SHAPE, widths=WIDTHS)


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
    grey: Tensor, epochs: int, seed: int, loss_of: Callable[..., Tensor], report: Report
) -> tuple[nn.Module, nn.Module]:
    """The plain loop over pixels (N, 1, 28, 28) in memory."""
    encoder, decoder = networks(seed)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=LR, fused=True)
    for _ in range(epochs):
        start = clock()
        for rows in torch.randperm(len(grey)).split(BATCH):
            loss = loss_of(encoder, decoder, torch.bernoulli(grey[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        report(clock() - start)
    return encoder, decoder


def by_loader(root: str, num: int, epochs: int, seed: int, report: Report) -> tuple[nn.Module, nn.Module]:
    """The loop that waits for its DataLoader."""
    encoder, decoder = networks(seed)
    images = Subset(MNIST(root, transform=ToTensor()), range(num))
    loader = DataLoader(images, batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=LR)
    for _ in range(epochs):
        start = clock()
        for grey, _ in loader:
            loss = amortized_loss(encoder, decoder, torch.bernoulli(grey))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        report(clock() - start)
    return encoder, decoder


def by_pyrovae(
    data: TimedData, scheme: str, epochs: int, seed: int, report: Report, **options: Any
) -> tuple[nn.Module, nn.Module]:
    """The same through the library."""
    encoder, decoder = networks(seed)
    model = pv.VAE(pv.models.priors.StandardNormal(Z_DIM), decoder, pv.models.likelihoods.Bernoulli(3))
    family, data.report = pv.DiagonalNormal(Z_DIM), report
    guide: pv.Guide = pv.AmortizedGuide(family, encoder)
    if scheme == "semi":
        refiner = pv.SVIRefiner(num_steps=NUM_STEPS, lr=INNER_LR, optimizer="adam")
        guide = pv.SemiAmortizedGuide(model, family, encoder, refiner)
    with TemporaryDirectory() as folder:
        how: dict[str, Any] = {"optimizer": "adam", "batch_size": BATCH, "lr": LR, "seed": seed, "progress": False}
        pv.fit(model, guide, data, epochs=epochs, run_dir=folder, **how, **options)  # type: ignore[arg-type]
    return encoder, decoder


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    options.add_argument("--num-train", type=int, default=60000, help="of its digits")
    options.add_argument("--epochs", type=int, default=10, help="of amortized training")
    options.add_argument("--semi-epochs", type=int, default=3, help="of semi-amortized training")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", nargs="+", help="contestants whose names begin so, beside the baseline")
    args = options.parse_args()

    train, test = (MNIST(args.root, train=train).data[:, None] for train in (True, False))
    train = train[: args.num_train]
    # The hold-outs are token: the contest is about training, and all are scored below by the same formula.
    images = pv.data.Dataset("mnist", "full MNIST", train, test[:BATCH], test[:BATCH], "dynamic")
    data = TimedData(images, print)
    scored = pv.data.Dataset("mnist", "full MNIST", train, test, test, "dynamic")
    x = torch.cat(list(scored.batches("test", 1000)))
    grey, seed, nets = train.float() / 255, args.seed, partial(networks, args.seed)
    contestants: dict[str, Any] = {}
    for scheme, epochs, loss in (("amortized", args.epochs, amortized_loss), ("semi", args.semi_epochs, semi_loss)):
        of: dict[str, Any] = {"torch": partial(by_torch, grey, epochs, seed, loss)}
        inner = (NUM_STEPS, INNER_LR) if scheme == "semi" else None
        of["JAX"] = peers.jax_trainer(nets, grey, epochs, BATCH, LR, inner)
        if scheme == "amortized":
            of["DataLoader"] = partial(by_loader, args.root, len(train), epochs, seed)
            of["pythae"] = peers.pythae_trainer(nets, grey, epochs, BATCH, LR)
            of["NumPyro"] = peers.numpyro_trainer(nets, grey, epochs, BATCH, LR)
        of |= {
            f"pyrovae, {label}": partial(by_pyrovae, data, scheme, epochs, seed, **how)
            for label, how in OPTIONS.items()
        }
        contestants |= {f"{scheme}, {name}": (scheme, epochs, run) for name, run in of.items()}
    rows: dict[str, dict[str, Any] | None] = {}
    print(f"seed {seed}, {len(train)} digits\n\n| | epochs | images/s | x | epoch, s | x | test ELBO at λ₀ |")
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
            scores = elbo(encoder, decoder, x)
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
    save(args.json, rows, seed=seed, num_train=len(train))


if __name__ == "__main__":
    main()

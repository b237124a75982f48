"""Speed and quality of training, eager and compiled, beside a plain PyTorch loop, in one run.

    python benchmarks/train.py --root data --epochs 10 --json benchmarks/results/train.json

All train 784-200-200-50 on the full MNIST with batch 128, Adam at 1e-3 and dynamic binarisation, on one thread. The
baseline is a loop as one writes it: torchvision's MNIST with ToTensor in a shuffled DataLoader. Ours is one call of
`pyrovae.fit` with everything on: logging, pictures, checkpoints. `images/s` is of whole calls, start-up and compiling
included; `epoch` is the fastest epoch, from its first batch to its last, and shows what an epoch costs in a longer run.
Semi-amortized is K = 10 with the safeguard on; its calls are of `--semi-epochs`, so their images/s carry more start-up.
"""

from functools import partial
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from timing import TimedData, parser, save
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

import pyrovae as pv

PLAIN = "plain PyTorch, DataLoader"
OPTIONS: dict[str, dict[str, Any]] = {
    "eager": {"engine": "eager"},
    "compiled": {"engine": "compiled"},
    "compiled, bfloat16": {"engine": "compiled", "use_amp": True},
}
SHAPE, WIDTHS, Z_DIM, BATCH, LR = (1, 28, 28), (200, 200), 50, 128, 1e-3


def networks(seed: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder; the same weights for both contestants."""
    torch.manual_seed(seed)
    return pv.nets.MLP(SHAPE, (2 * Z_DIM,), widths=WIDTHS), pv.nets.MLP((Z_DIM,), SHAPE, widths=WIDTHS)


def elbo(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """One-sample ELBO (B,) with closed-form KL, by hand."""
    loc, log_scale = encoder(x).chunk(2, -1)
    logits = decoder(loc + log_scale.exp() * torch.randn_like(loc))
    recon = -binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)
    return recon - 0.5 * (loc**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(1)


def by_hand(root: str, epochs: int, seed: int) -> tuple[nn.Module, nn.Module]:
    """The plain loop."""
    encoder, decoder = networks(seed)
    loader = DataLoader(MNIST(root, transform=ToTensor()), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=LR)
    for _ in range(epochs):
        for grey, _ in loader:
            loss = -elbo(encoder, decoder, torch.bernoulli(grey)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return encoder, decoder


def by_pyrovae(data: TimedData, scheme: str, epochs: int, seed: int, **options: Any) -> tuple[nn.Module, nn.Module]:
    """The same through the library."""
    encoder, decoder = networks(seed)
    model = pv.VAE(pv.models.priors.StandardNormal(Z_DIM), decoder, pv.models.likelihoods.Bernoulli(3))
    family = pv.DiagonalNormal(Z_DIM)
    guide: pv.Guide = pv.AmortizedGuide(family, encoder)
    if scheme == "ivae_iterative":
        guide = pv.SemiAmortizedGuide(model, family, encoder, pv.SVIRefiner(num_steps=10, lr=0.03))
    with TemporaryDirectory() as folder:
        how: dict[str, Any] = {"batch_size": BATCH, "lr": LR, "seed": seed, "progress": False, **options}
        pv.fit(model, guide, data, epochs=epochs, run_dir=folder, **how)  # type: ignore[arg-type]
    return encoder, decoder


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    options.add_argument("--epochs", type=int, default=10, help="of the baseline and of vae_mlp")
    options.add_argument("--semi-epochs", type=int, default=3, help="of ivae_iterative")
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()

    train, test = (MNIST(args.root, train=train).data[:, None] for train in (True, False))
    # The hold-outs are token: the contest is about training, and all are scored below by the same formula.
    of_epochs: list[float] = []
    images = pv.data.Dataset("mnist", "full MNIST", train, test[:BATCH], test[:BATCH], "dynamic")
    data = TimedData(images, of_epochs.append)
    scored = pv.data.Dataset("mnist", "full MNIST", train, test, test, "dynamic")
    x = torch.cat(list(scored.batches("test", 1000)))
    rows: dict[str, dict[str, Any]] = {}
    contestants: dict[str, tuple[int, Any]] = {PLAIN: (args.epochs, lambda: by_hand(args.root, args.epochs, args.seed))}
    for scheme, epochs in (("vae_mlp", args.epochs), ("ivae_iterative", args.semi_epochs)):
        for label, how in OPTIONS.items():
            ours = partial(by_pyrovae, data, scheme, epochs, args.seed, **how)
            contestants[f"{scheme}, {label}"] = epochs, ours
    print(f"seed {args.seed}\n\n| | epochs | images/s | × | epoch, s | test ELBO at λ₀ |\n|---|---|---|---|---|---|")
    for name, (epochs, run) in contestants.items():
        of_epochs.clear()
        start = perf_counter()
        encoder, decoder = run()
        seconds = perf_counter() - start
        torch.manual_seed(0)
        with torch.no_grad():
            scores = elbo(encoder, decoder, x)
        epoch = seconds / epochs if name == PLAIN else min(of_epochs)
        rows[name] = row = {
            "epochs": epochs,
            "seconds": seconds,
            "images_per_second": epochs * len(train) / seconds,
            "seconds_an_epoch": epoch,
            "test_elbo": scores.mean().item(),
            "test_elbo_se": (scores.std() / len(x) ** 0.5).item(),
        }
        row["speed_ratio"] = row["images_per_second"] / rows[PLAIN]["images_per_second"]
        print(
            f"| {name} | {epochs} | {row['images_per_second']:.0f} | {row['speed_ratio']:.2f} | {epoch:.2f} "
            f"| {row['test_elbo']:.2f} ± {row['test_elbo_se']:.2f} |",
            flush=True,
        )
    for label in OPTIONS:
        ratio = rows[f"ivae_iterative, {label}"]["seconds_an_epoch"] / rows[f"vae_mlp, {label}"]["seconds_an_epoch"]
        print(f"an epoch of ivae_iterative is {ratio:.1f} of vae_mlp's, {label}")
    save(args.json, rows, seed=args.seed)


if __name__ == "__main__":
    main()

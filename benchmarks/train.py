"""Speed and quality of `vae_mlp` beside a plain PyTorch loop, in one run.

    python benchmarks/train.py --root data --epochs 5

Both train 784-200-200-50 on the full MNIST with batch 128, Adam at 1e-3 and dynamic binarisation, on one thread. The
baseline is a loop as one writes it: torchvision's MNIST with ToTensor in a shuffled DataLoader. Ours is one call of
`pyrovae.fit` with everything on: logging, pictures, checkpoints. Seconds are of the whole call, start-up included.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

import pyrovae as pv

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


def by_pyrovae(data: pv.data.ImageData, epochs: int, seed: int) -> tuple[nn.Module, nn.Module]:
    """The same through the library."""
    encoder, decoder = networks(seed)
    model = pv.VAE(pv.models.priors.StandardNormal(Z_DIM), decoder, pv.models.likelihoods.Bernoulli())
    guide = pv.AmortizedGuide(pv.DiagonalNormal(Z_DIM), encoder)
    with TemporaryDirectory() as folder:
        pv.fit(model, guide, data, epochs=epochs, batch_size=BATCH, lr=LR, seed=seed, run_dir=folder, progress=False)
    return encoder, decoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/train.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)

    train, test = (MNIST(args.root, train=train).data[:, None] for train in (True, False))
    # The hold-outs are token: the contest is about training, and both are scored below by the same formula.
    data = pv.data.ImageData("mnist", "full MNIST", train, test[:BATCH], test[:BATCH], "dynamic")
    scored = pv.data.ImageData("mnist", "full MNIST", train, test, test, "dynamic")
    x = torch.cat(list(scored.batches("test", 1000)))
    rows: dict[str, dict[str, Any]] = {}
    contestants = {
        "plain PyTorch, DataLoader": lambda: by_hand(args.root, args.epochs, args.seed),
        "pyrovae vae_mlp": lambda: by_pyrovae(data, args.epochs, args.seed),
    }
    for name, run in contestants.items():
        start = perf_counter()
        encoder, decoder = run()
        seconds = perf_counter() - start
        torch.manual_seed(0)
        with torch.no_grad():
            scores = elbo(encoder, decoder, x)
        rows[name] = {
            "seconds": seconds,
            "images_per_second": args.epochs * len(train) / seconds,
            "test_elbo": scores.mean().item(),
            "test_elbo_se": (scores.std() / len(x) ** 0.5).item(),
        }
    baseline = rows["plain PyTorch, DataLoader"]["seconds"]
    print(f"| {args.epochs} epochs, seed {args.seed} | images/s | × | test ELBO |\n|---|---|---|---|")
    for name, row in rows.items():
        row["speed_ratio"] = baseline / row["seconds"]
        print(
            f"| {name} | {row['images_per_second']:.0f} | {row['speed_ratio']:.2f} "
            f"| {row['test_elbo']:.2f} ± {row['test_elbo_se']:.2f} |"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"epochs": args.epochs, "torch": torch.__version__, **rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

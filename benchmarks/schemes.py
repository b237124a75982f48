"""What inference schemes reach at equal epochs: amortized, semi-amortized, SVI.

    python benchmarks/schemes.py --root data --epochs 10 --seeds 0 1 2

One model, 784-200-200-50, on the full MNIST with dynamic binarisation, 1,000 training images held out for validation,
one thread. Scores are ELBOs of the 10,000 test digits at λ₀ and λ_K, in nats, of the best epoch by validation.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch

import pyrovae as pv

Z_DIM, WIDTHS = 50, (200, 200)


def build(scheme: str, shape: tuple[int, ...], seed: int) -> tuple[pv.VAE, pv.Guide]:
    """Model and guide of a scheme."""
    torch.manual_seed(seed)
    model = pv.models.mlp(shape, Z_DIM, widths=WIDTHS)
    family = pv.DiagonalNormal(Z_DIM)
    if scheme == "svi":
        return model, pv.SVIGuide(model, family, pv.SVIRefiner(num_steps=20, lr=0.1))
    encoder = pv.nets.MLP(shape, (family.num_params,), widths=WIDTHS)
    if scheme == "vae_mlp":
        return model, pv.AmortizedGuide(family, encoder)
    return model, pv.SemiAmortizedGuide(model, family, encoder, pv.SVIRefiner(num_steps=10, lr=0.03))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--source", default="full", help="full, or embedded for a quick look")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--schemes", nargs="+", default=["vae_mlp", "ivae_iterative", "svi"])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/schemes.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.parent.mkdir(parents=True, exist_ok=True)

    data = pv.data.MNIST(root=args.root, source=args.source, num_val=1000)
    rows: dict[str, list[dict[str, Any]]] = {scheme: [] for scheme in args.schemes}
    for seed in args.seeds:  # seeds outside, so that an interrupted run has compared all schemes
        for scheme in args.schemes:
            model, guide = build(scheme, data.x_shape, seed)
            with TemporaryDirectory() as folder:
                result = pv.fit(model, guide, data, epochs=args.epochs, seed=seed, run_dir=folder, progress=False)
            rows[scheme].append({"seed": seed, **result})
            print(f"{scheme} seed {seed}: {result['test/elbo_init']:.2f} -> {result['test/elbo']:.2f} "
                  f"± {result['test/elbo_se']:.2f}, {result['seconds']:.0f} s", flush=True)  # fmt: skip
            args.out.write_text(json.dumps({"epochs": args.epochs, "data": data.source, **rows}, indent=2) + "\n")
    print(f"\n| {args.epochs} epochs, seeds {args.seeds} | ELBO at λ₀ | ELBO at λ_K | gain | seconds |")
    print("|---|---|---|---|---|")
    for scheme, results in rows.items():
        cells = [_cell(results, key) for key in ("test/elbo_init", "test/elbo", "test/refinement_gain")]
        print(f"| {scheme} | {' | '.join(cells)} | {mean(r['seconds'] for r in results):.0f} |")


def _cell(results: list[dict[str, Any]], key: str) -> str:
    values = [r[key] for r in results]
    error = f" ± {stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{error}"


if __name__ == "__main__":
    main()

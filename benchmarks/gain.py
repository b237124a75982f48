"""What path gradients and the safeguard's draws are worth, on one trained model.

    python benchmarks/refinement.py --root data --epochs 5

Trains 784-200-200-50 on the full MNIST twice, without and with path gradients; then refines the latter's λ₀ for 1,000
test digits by ten Adam steps of 0.03. `gain` is scored with 50 fresh draws a digit, `claimed` with the safeguard's own.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import pyrovae as pv
from pyrovae.inference import Terms, common_noise_terms

Z_DIM, WIDTHS = 50, (200, 200)
SETTINGS: list[dict[str, Any]] = [
    {"safeguard": False},
    {"safeguard": False, "path_gradient": False},
    {"score_particles": 1},
    {"score_particles": 1, "path_gradient": False},
    {"score_particles": 4},
    {"score_particles": 16},
]


def trained(data: pv.data.ImageData, epochs: int, path_gradient: bool) -> tuple[pv.VAE, pv.AmortizedGuide, dict]:
    """An amortized VAE after `epochs`, and its metrics."""
    torch.manual_seed(0)
    model = pv.models.mlp(data.x_shape, Z_DIM, widths=WIDTHS)
    family = pv.DiagonalNormal(Z_DIM)
    guide = pv.AmortizedGuide(family, pv.nets.MLP(data.x_shape, (family.num_params,), widths=WIDTHS))
    return model, guide, pv.fit(model, guide, data, epochs=epochs, path_gradient=path_gradient, progress=False)


def gain(before: Terms, after: Terms) -> tuple[float, float]:
    """Mean difference of two ELBOs on the same datapoints, with its standard error."""
    difference = after.elbo() - before.elbo()
    return difference.mean().item(), (difference.std() / len(difference) ** 0.5).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--source", default="full", help="full, or embedded for a quick look")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/refinement.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)

    data = pv.data.MNIST(root=args.root, source=args.source, num_val=1000 if args.source == "full" else None)
    result: dict[str, Any] = {"epochs": args.epochs, "torch": torch.__version__, "training": {}, "refinement": []}
    for path_gradient in (False, True):
        model, guide, metrics = trained(data, args.epochs, path_gradient)
        result["training"][f"path_gradient={path_gradient}"] = metrics
        error = metrics["test/elbo_se"]
        print(f"trained with path_gradient={path_gradient}: test ELBO {metrics['test/elbo']:.2f} ± {error:.2f}")

    x = next(iter(data.batches("test", 1000)))
    init = guide.infer(x).init.detach()
    print("\n| refiner | gain | claimed | sent back |\n|---|---|---|---|")
    for setting in SETTINGS:
        torch.manual_seed(1)
        inferred = pv.SVIRefiner(num_steps=10, lr=0.03, **setting)(model, guide.family, x, init)
        before, after = common_noise_terms(model, guide.family, x, init, inferred.params, num_particles=50)
        fresh, error = gain(before, after)
        row: dict[str, Any] = {"setting": setting, "gain": fresh, "gain_se": error}
        if inferred.terms is not None and inferred.terms_init is not None and inferred.reverted is not None:
            row["claimed"] = gain(inferred.terms_init, inferred.terms)[0]
            row["reverted"] = int(inferred.reverted.sum())
        result["refinement"].append(row)
        text = ", ".join(f"{k}={v}" for k, v in setting.items())
        claimed = f"{row['claimed']:+.2f}" if "claimed" in row else ""
        print(f"| {text} | {fresh:+.2f} ± {error:.2f} | {claimed} | {row.get('reverted', '')} |")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

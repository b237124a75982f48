"""What refinement gains on one trained model, and in what time: paces, path gradients, safeguard, bfloat16.

    python benchmarks/gain.py --root data --epochs 5

Trains 784-200-200-50 on the full MNIST twice, without and with path gradients; then refines the latter's λ₀ for 1,000
test digits. `gain` is scored with 50 fresh draws a digit, `claimed` with the safeguard's own four; `ms` is the time a
digit takes, compiled, in batches of 128.
"""

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import pyrovae as pv
from pyrovae.inference import Terms, common_noise_terms

Z_DIM, WIDTHS, BATCH = 50, (200, 200), 128
LINEAR = {"lr": 0.1, "lr_decay": "linear"}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "path gradients, safeguard": [
        {"safeguard": False},
        {"safeguard": False, "path_gradient": False},
        {"score_particles": 1},
        {"score_particles": 1, "path_gradient": False},
        {"score_particles": 4},
        {"score_particles": 16},
    ],
    "steps and paces": [
        *({"num_steps": k, "lr": 0.03, "safeguard": False} for k in (2, 5, 10, 20, 50)),
        *({"num_steps": k, **LINEAR, "safeguard": False} for k in (2, 5, 10, 20, 50)),
        *(
            {"num_steps": 20, "lr": lr, "adapt": a, "safeguard": False}
            for lr in (0.003, 0.01, 0.1)
            for a in (0, 0.3, 1)
        ),
        *({"num_steps": 50, "lr": 0.03, "stop_below": s, "safeguard": False} for s in (0.0, 0.02, 0.1)),
    ],
    "bfloat16": [
        {"num_steps": 10, **LINEAR, "safeguard": False},
        {"num_steps": 10, **LINEAR, "safeguard": False, "bfloat16": True},
        {"num_steps": 50, **LINEAR, "safeguard": False},
        {"num_steps": 50, **LINEAR, "safeguard": False, "bfloat16": True},
    ],
}


def trained(data: pv.data.Dataset, epochs: int, path_gradient: bool) -> tuple[pv.VAE, pv.AmortizedGuide, dict]:
    """An amortized VAE after `epochs`, and its metrics."""
    torch.manual_seed(0)
    model = pv.models.mlp(data.x_shape, Z_DIM, widths=WIDTHS)
    family = pv.DiagonalNormal(Z_DIM)
    guide = pv.AmortizedGuide(family, pv.nets.MLP(data.x_shape, (family.num_params,), widths=WIDTHS))
    objective = pv.ELBO(path_gradient=path_gradient)
    return model, guide, pv.fit(model, guide, data, epochs=epochs, objective=objective, progress=False)


def gain(before: Terms, after: Terms) -> tuple[float, float]:
    """Mean difference of two ELBOs on the same datapoints, with its standard error."""
    difference = after.elbo() - before.elbo()
    return difference.mean().item(), (difference.std() / len(difference) ** 0.5).item()


def measure(model: pv.VAE, family: pv.Family, x: Tensor, init: Tensor, setting: dict[str, Any]) -> dict[str, Any]:
    """One row."""
    options = dict(setting)
    bfloat16 = options.pop("bfloat16", False)
    refiner = pv.SVIRefiner(**{"num_steps": 10, "lr": 0.03, **options})

    def refine() -> list[pv.Inferred]:
        torch.manual_seed(1)
        pairs = zip(x.split(BATCH), init.split(BATCH), strict=True)
        with pv.engine("compiled"), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return [refiner(model, family, *pair) for pair in pairs]

    parts = refine()  # compiles
    seconds = []
    for _ in range(3):
        start = perf_counter()
        refine()
        seconds.append(perf_counter() - start)
    params = torch.cat([part.params for part in parts])
    before, after = common_noise_terms(model, family, x, init, params, num_particles=50)
    fresh, error = gain(before, after)
    row = {"setting": setting, "gain": fresh, "gain_se": error, "ms": min(seconds) / len(x) * 1e3}
    if parts[0].terms is not None:
        claimed = [
            p.terms.elbo() - p.terms_init.elbo() for p in parts if p.terms is not None and p.terms_init is not None
        ]
        row["claimed"] = torch.cat(claimed).mean().item()
        row["reverted"] = sum(int(p.reverted.sum()) for p in parts if p.reverted is not None)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--source", default="full", help="full, or embedded for a quick look")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/gain.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)

    data = pv.data.MNIST(root=args.root, source=args.source, num_val=1000 if args.source == "full" else None)
    result: dict[str, Any] = {"epochs": args.epochs, "torch": torch.__version__, "training": {}}
    for path_gradient in (False, True):
        model, guide, metrics = trained(data, args.epochs, path_gradient)
        result["training"][f"path_gradient={path_gradient}"] = metrics
        error = metrics["test/elbo_se"]
        print(f"trained with path_gradient={path_gradient}: test ELBO {metrics['test/elbo']:.2f} ± {error:.2f}")

    x = next(iter(data.batches("test", 1000)))
    init = guide.infer(x).init.detach()
    for title, settings in SETTINGS.items():
        print(f"\n{title}\n\n| refiner | gain | ms | claimed | sent back |\n|---|---|---|---|---|")
        result[title] = []
        for setting in settings:
            row = measure(model, guide.family, x, init, setting)
            result[title].append(row)
            text = ", ".join(f"{k}={v}" for k, v in setting.items() if (k, v) != ("safeguard", False)) or "no safeguard"
            claimed = f"{row['claimed']:+.2f}" if "claimed" in row else ""
            cells = [f"{row['gain']:+.2f} ± {row['gain_se']:.2f}", f"{row['ms']:.3f}", claimed]
            print(f"| {text} | {' | '.join(cells)} | {row.get('reverted', '')} |", flush=True)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

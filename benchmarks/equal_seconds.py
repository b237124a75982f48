"""Amortized against semi-amortized training, in nats against seconds: does refinement pay for its time?

    python benchmarks/equal_seconds.py --root data --scheme amortized --epochs 76 --seed 0
    python benchmarks/equal_seconds.py --root data --scheme semi_k2 --epochs 48 --seed 0
    python benchmarks/equal_seconds.py --plot docs/images/equal_seconds.png

784-200-200-50 on the full MNIST with dynamic binarisation, Adam at 1e-3 with a cosine to zero, batch 128, one thread,
compiled. Seconds are of training alone, from the first batch of an epoch to its last, the first epoch's compiling
included. Scores are of the first 1,000 test digits: the ELBO at the encoder's λ, the ELBO after 50 refinement steps,
and IWAE-1000 with the refined q as proposal, for both schemes alike. Runs are added to one JSON file.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timing import TimedData
from torch import Tensor

import pyrovae as pv
from pyrovae.inference import iwae

Z_DIM, WIDTHS, NUM_TEST = 50, (200, 200), 1000
SCHEMES: dict[str, dict[str, Any] | None] = {  # the refiner of each; None has none
    "amortized": None,
    "semi_k1": {"num_steps": 1, "lr": 0.2},
    "semi_k2": {"num_steps": 2, "lr": 0.1},
    "semi_k4": {"num_steps": 4, "lr": 0.1, "lr_decay": "linear"},
    "semi_k10": {"num_steps": 10, "lr": 0.03},
}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains one scheme; its curve."""
    data = pv.data.MNIST(root=args.root, source="full", num_val=1000)
    if args.num_train:
        train = data.rows("train").read(torch.arange(args.num_train))
        data = replace(data, train=train, labels={})
    x = torch.cat(list(data.batches("test", NUM_TEST)))[:NUM_TEST]
    torch.manual_seed(args.seed)
    model = pv.models.mlp(data.x_shape, Z_DIM, widths=WIDTHS)
    family = pv.DiagonalNormal(Z_DIM)
    encoder = pv.nets.MLP(data.x_shape, (family.num_params,), widths=WIDTHS)
    refiner = SCHEMES[args.scheme]
    guide: pv.Guide = pv.AmortizedGuide(family, encoder)
    if refiner is not None:
        loop = pv.SVIRefiner(**refiner, safeguard=False)
        guide = pv.SemiAmortizedGuide(model, family, encoder, loop, encoder_loss=args.encoder_loss)
    curve: list[dict[str, float]] = []

    seconds: list[float] = []

    def report(last: float) -> None:
        seconds.append(last)
        if len(seconds) % args.every and len(seconds) != args.epochs:
            return
        torch.manual_seed(1)
        init = encoder(x).detach()
        with pv.engine("eager"):
            better = pv.SVIRefiner(num_steps=50, lr=0.1, lr_decay="linear", safeguard=False)(model, family, x, init)
        curve.append({"epoch": len(seconds), "seconds": sum(seconds), **score(model, family, x, init, better.params)})
        print(json.dumps({key: round(value, 2) for key, value in curve[-1].items()}), flush=True)

    pv.fit(
        model,
        guide,
        TimedData(data, report),  # type: ignore[arg-type]
        epochs=args.epochs,
        lr_schedule="cosine",
        seed=args.seed,
        engine="compiled",
        refine_from=args.refine_from,
        use_amp=args.amp,
        progress=False,
    )
    options = {k: v for k, v in vars(args).items() if k not in ("root", "json", "plot")}
    return {**options, "refiner": refiner, "curve": curve}


def score(model: pv.VAE, family: pv.Family, x: Tensor, init: Tensor, better: Tensor) -> dict[str, float]:
    """Means over images in nats, and the standard error of the last."""
    bound = iwae(model, family, x, better, 1000)
    return {
        "elbo_init": pv.elbo_terms(model, family, x, init, 20).elbo().mean().item(),
        "elbo_refined": pv.elbo_terms(model, family, x, better, 20).elbo().mean().item(),
        "iwae_1000": bound.mean().item(),
        "iwae_1000_se": (bound.std() / len(x) ** 0.5).item(),
    }


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Nats against seconds, a line for each run."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    schemes = list(dict.fromkeys(r["scheme"] for r in runs))
    for r in runs:
        x, y = ([point[key] for point in r["curve"]] for key in ("seconds", "iwae_1000"))
        first = r is next(other for other in runs if other["scheme"] == r["scheme"])
        axes.plot(x, y, ".-", color=f"C{schemes.index(r['scheme'])}", label=r["scheme"] if first else None)
    axes.set(xlabel="seconds of training, one thread", ylabel="IWAE-1000, nats a test digit")
    axes.set_ylim(bottom=max(min(p["iwae_1000"] for r in runs for p in r["curve"]), -97))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--scheme", choices=list(SCHEMES), help="what to train")
    parser.add_argument("--epochs", type=int, default=48)
    parser.add_argument("--every", type=int, default=8, help="epochs between scores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-train", type=int, help="only so many training digits")
    parser.add_argument("--refine-from", type=int, default=0, help="amortized epochs first")
    parser.add_argument("--encoder-loss", choices=["hybrid", "kl"], default="hybrid")
    parser.add_argument("--amp", action="store_true", help="networks in bfloat16")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/equal_seconds.json"))
    parser.add_argument("--plot", type=Path, help="draw what was run, for example to docs/images/equal_seconds.png")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.scheme:
        result = run(args)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        runs = json.loads(args.json.read_text()) if args.json.exists() else []
        args.json.write_text(json.dumps([*runs, result], indent=2) + "\n")
    if args.plot:
        plot(json.loads(args.json.read_text()), args.plot)


if __name__ == "__main__":
    main()

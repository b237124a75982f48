"""What inference schemes reach at equal epochs: guides, refiners, families, objectives and priors over one model.

    python benchmarks/schemes.py --root data --epochs 5 --seeds 0 1                    # everything
    python benchmarks/schemes.py --root data --epochs 5 --only VAE SVI VAE+SVI VAE+SVI+KL SA-VAE   # Kim et al. (2018)

One model, 784-200-200-50, on the full MNIST with dynamic binarisation, 1,000 training images held out for validation,
one thread. Scores are ELBOs of the 10,000 test digits at λ₀ and λ_K, and IWAE of the first 1,000 with q at λ_K, in
nats, of the best epoch by validation. Each cell writes a file to `--out`; those there are not run again, so that a run
can be interrupted, or shared by processes that are given other seeds. The published cells print by

    python benchmarks/schemes.py --seeds --out benchmarks/results/schemes
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

import pyrovae as pv
from pyrovae.config import Config, build_model, fit_arguments, load_config
from pyrovae.inference import iwae

CONFIGS = Path(__file__).parent.parent / "configs"

_SEMI = ["guide.refiner.num_steps=10", "guide.refiner.lr=0.03"]
_NATURAL = [f"guide.refiner.{setting}" for setting in ("num_steps=10", "optimizer=natural", "lr=0.3", "clip=2")]
CELLS: dict[str, tuple[str, list[str]]] = {  # name -> configuration, overrides
    "VAE": ("default", []),
    "VAE, full_normal": ("default", ["guide.family=full_normal"]),
    "VAE, low_rank_normal": ("default", ["guide.family=low_rank_normal"]),
    "VAE, flow": ("default", ["guide.family=flow"]),
    "VAE, mixture_normal": ("default", ["guide.family=mixture_normal"]),
    "VAE, laplace": ("default", ["guide.family=laplace"]),
    "VAE, student_t": ("default", ["guide.family=student_t"]),
    "SVI": ("svi", ["guide.refiner.num_steps=20"]),
    "VAE+SVI": ("vae_svi", _SEMI),
    "VAE+SVI, full_normal": ("vae_svi", [*_SEMI, "guide.family=full_normal"]),
    "VAE+SVI, flow": ("vae_svi", [*_SEMI, "guide.family=flow"]),
    "VAE+SVI, natural": ("vae_svi", _NATURAL),
    "VAE+SVI, full_normal, natural": ("vae_svi", [*_NATURAL, "guide.family=full_normal"]),
    "VAE+SVI+KL": ("vae_svi_kl", _SEMI),
    "SA-VAE": ("sa_vae", ["guide.refiner.num_steps=10"]),
    "learned iterative": ("learned_iterative", []),
    "VLAE, full_normal": ("vlae", ["guide.refiner.num_steps=2"]),
    "aggressive VAE": ("default", ["train.aggressive=true"]),
    "IWAE-5": ("default", ["train.objective=iwae"]),
    "free bits 0.1": ("default", ["train.objective.type=analytic_elbo", "train.objective.free_bits=0.1"]),
    "VAE, VampPrior": ("default", ["model.prior=vamp_prior"]),
    "VAE, flow prior": ("default", ["model.prior=flow"]),
    "hierarchical": ("vae_hierarchical", ["guide.family=diagonal_normal"]),
    "hierarchical, ladder": ("vae_hierarchical", ["guide.family=ladder"]),
    "hierarchical, semi": ("ivae_hierarchical", _SEMI),
}


def run(config: Config, data: pv.data.Dataset, num_iwae: int) -> dict[str, Any]:
    """Trains and scores one cell."""
    model, guide = build_model(config, data.x_shape)
    with TemporaryDirectory() as folder:
        result: dict[str, Any] = pv.fit(model, guide, data, run_dir=folder, progress=False, **fit_arguments(config))
    x = next(iter(data.batches("test", 1000)))
    model.eval(), guide.eval()
    with pv.engine("eager"), torch.no_grad():
        guide.infer(x[:100])
        start = perf_counter()
        params = guide.infer(x).params
        result["ms_per_image"] = (perf_counter() - start) / len(x) * 1e3
    chunks = zip(x.split(100), params.split(100), strict=True)
    bounds = torch.cat([iwae(model, guide.family, *chunk, num_samples=num_iwae) for chunk in chunks])
    result["iwae"], result["iwae_se"] = bounds.mean().item(), (bounds.std() / len(bounds) ** 0.5).item()
    return result


def table(folder: Path, names: list[str], epochs: int) -> str:
    """A row for each cell with a file in `folder`: means over seeds, ± their standard errors."""
    lines = ["| scheme | ELBO at λ₀ | ELBO at λ_K | IWAE | training, s | ms an image | seeds |", "|---" * 7 + "|"]
    for name in names:
        rows = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{_file(name)}-{epochs}_epochs-*.json"))]
        if rows:
            scores = [_cell([r[key] for r in rows]) for key in ("test/elbo_init", "test/elbo", "iwae")]
            costs = f"{mean(r['seconds'] for r in rows):.0f} | {mean(r['ms_per_image'] for r in rows):.2f}"
            lines.append(f"| {name} | {' | '.join(scores)} | {costs} | {len(rows)} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    error = f" ± {stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{error}"


def _file(name: str) -> str:
    return name.replace(", ", "__").replace(" ", "_")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--source", default="full", help="full, or embedded for a quick look")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1], help="none: only print the table")
    parser.add_argument("--only", nargs="+", default=list(CELLS), choices=CELLS, metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--num-samples", type=int, default=500, help="k of the IWAE score")
    parser.add_argument("--out", type=Path, default=Path("runs/schemes"), help="folder of the cells' files")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)

    if args.seeds:
        train(args)
    print(table(args.out, args.only, args.epochs))


def train(args: argparse.Namespace) -> None:
    """Runs the cells that have no file yet."""
    data = pv.data.MNIST(root=args.root, source=args.source, num_val=1000)
    for seed in args.seeds:  # seeds outside, so that an interrupted run has compared all schemes
        for name in args.only:
            path = args.out / f"{_file(name)}-{args.epochs}_epochs-{seed}.json"
            if path.exists():
                continue
            file, overrides = CELLS[name]
            common = [f"train.seed={seed}", f"train.epochs={args.epochs}"]
            result = run(load_config(CONFIGS / f"{file}.yaml", [*overrides, *common]), data, args.num_samples)
            row = {"scheme": name, "epochs": args.epochs, "seed": seed, **result}
            path.write_text(json.dumps(row, indent=2) + "\n")
            elbo = f"{row['test/elbo_init']:.2f} -> {row['test/elbo']:.2f} ± {row['test/elbo_se']:.2f}"
            print(f"{name} seed {seed}: {elbo}, IWAE {row['iwae']:.2f}, {row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()

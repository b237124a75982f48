"""Trains on two gloo processes; each rank writes what it ended with. Run by test_cli.py."""

import sys
from pathlib import Path

import torch
from conftest import X_SHAPE, make_guide
from pytorch_lightning.utilities.rank_zero import rank_zero_only

import pyrovae as pv

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    rank = rank_zero_only.rank or 0
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (64, *X_SHAPE), dtype=torch.uint8)
    # Of 17 validation images the last batch has one, and rank 1 none.
    data = pv.data.Dataset("tiny", "random pixels", pixels[:41], pixels[41:58], pixels[58:], "dynamic")
    model = pv.models.mlp(X_SHAPE, 3, widths=(8,))
    guide = make_guide("semi_amortized", "diagonal_normal", model)
    start = {name: p.clone() for name, p in model.named_parameters()}
    noise, batches, original = [], [], pv.Family.sample

    def sample(self, params):
        z, q = original(self, params), self(params)
        if batches:  # not of the one pass that checks shapes, before any batch
            noise.append(((z - q.mean) / q.stddev).detach())  # ε itself: z would differ by its λ
        return z

    pv.Family.sample = sample
    infer = type(guide).infer
    type(guide).infer = lambda self, x, *args, **kwargs: (batches.append(x), infer(self, x, *args, **kwargs))[1]
    metrics = pv.fit(
        model, guide, data, epochs=2, batch_size=8, run_dir=folder / "run", accelerator="cpu", devices=2, strategy="ddp",
        progress=False,
    )  # fmt: skip
    result = {
        "start": start,
        "weights": {**model.state_dict(), **{f"guide.{k}": v for k, v in guide.state_dict().items()}},
        "noise": noise[0],
        "batch": batches[0],
        "metrics": metrics,
    }
    torch.save(result, folder / f"rank{rank}.pt")

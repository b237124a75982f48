"""Training in one call, into a folder that describes itself: `pyrovae.fit`."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import training
from ..config.describe import described
from ..data import Dataset
from ..data.splits import held_out
from ..guides import Guide
from ..training.fit import Data
from .folder import RunFolder, is_rank_zero


def fit(
    model: nn.Module,
    guide: Guide,
    data: Data | Tensor | np.ndarray,
    *,
    run_dir: Path | str | None = None,
    **options: Any,
) -> dict[str, float]:
    """Trains `model` and `guide` in place; returns final metrics. All of it is as in `pyrovae.training.fit`.

    With a `run_dir` the folder is a run like one from YAML: `config.yaml` describes model, guide and data, where they
    are of the library or importable, so that `pyrovae.load`, `scripts/evaluate.py` and `--resume` take it. Where they
    are not, a line says what is missing, and `pyrovae.load(run_dir, model=..., guide=...)` takes both, built as here.

    Args:
        data: A `pyrovae.data.Dataset`, or an array (N, *x_shape) of which a tenth each, drawn by `seed`, validates and
            tests.
        run_dir: Folder for the run; nothing is written by default.
        options: `epochs`, `batch_size`, `lr`, and what else `training.fit` takes.

    >>> import pyrovae as pv
    >>> import torch
    >>> data = pv.data.Dataset("coins", "drawn", *torch.rand(3, 10, 6).round())
    >>> model = pv.models.mlp((6,), 2, widths=(8,), likelihood=pv.models.likelihoods.Bernoulli(1))
    >>> guide = pv.AmortizedGuide(pv.DiagonalNormal(2), pv.nets.MLP((6,), (4,), widths=(8,)))
    >>> "val/elbo" in pv.fit(model, guide, data, epochs=1, progress=False)
    True
    """
    if isinstance(data, list | tuple):
        what = f"data is a {type(data).__name__}"
        raise ValueError(f"{what}; give an array (N, *x_shape), torch.stack(data) say, or a pyrovae.data.Dataset")
    if isinstance(data, Tensor | np.ndarray):
        tenth = max(1, len(data) // 10)
        parts = held_out("data", len(data), options.get("seed", 0), val=tenth, test=tenth)
        data = Dataset.parted("array", "an array in memory", torch.as_tensor(data), parts)
    if run_dir is None:
        return training.fit(model, guide, data, **options)
    folder = RunFolder(Path(run_dir))
    config, missing = described(model, guide, data, {"start_from_data": False, **options})
    config.train.save_dir, config.train.name = str(folder.path.parent), folder.path.name
    if is_rank_zero():
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write(config)
        if missing:
            remedy = "pyrovae.load(run_dir, model=..., guide=...) takes both, built as here"
            print(f"{folder.path}: config.yaml cannot hold all of it ({'; '.join(missing)}); {remedy}", file=sys.stderr)
    settings = {"data": getattr(data, "source", ""), **config.model_dump(mode="json")}
    metrics = training.fit(model, guide, data, run_dir=folder.path, **{"hparams": settings, **options})
    folder.summarize(config, data, metrics)
    return metrics

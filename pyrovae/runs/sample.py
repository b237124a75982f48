"""What a trained model makes up, and what it makes of data: arrays and pictures."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..capture import engine
from ..data import Dataset, Split
from ..evaluation.subject import Subject, reconstructions
from ..evaluation.traversals import NUM_INFERRED, walk_figure, walks
from ..files import replacing
from ..inference import simulate
from ..models import can_decode
from ..training import figures
from ..training.noise import seed_noise
from .load import Trained

NUM_SHOWN = 12  # reconstructions in the picture; the arrays have all


def make_samples(
    trained: Trained, data: Dataset, *, num: int = 64, seed: int = 0, split: Split = "test"
) -> dict[str, Tensor]:
    """Arrays by name: samples, reconstructions of a split's first datapoints, and walks in latent space.

    `samples`, E[x | z] at draws `z` (n, D) from the prior, and `draws`, x ~ p(x | z), both (n, *x_shape); `inputs`, the
    first datapoints of the split, `reconstructions_init` and `reconstructions`, E[x | z] at the means of q at λ₀ and
    λ_K, and `labels`, if there are any; `traversals` (R, V, *x_shape), where entry `traversal_dims` (R,) of the first
    one's z takes `traversal_values` (R, V); `interpolations` (R, V, *x_shape) from datapoint r to R + r. Of a model
    without `decode`, which has no E[x | z], there are `draws`, `z` and `inputs` alone. Model and guide are moved to the
    GPU, if there is one; all noise is `seed`'s.

    >>> from pyrovae.config import build_model, check
    >>> config = check({"model": {"z_dim": 3}})
    >>> trained = Trained(*build_model(config, (6,)), config, (6,))
    >>> found = make_samples(trained, Dataset("zeros", "made", *torch.zeros(3, 5, 6)), num=4)
    >>> found["samples"].shape, found["traversals"].shape
    (torch.Size([4, 6]), torch.Size([3, 7, 6]))
    """
    device = trained.moved()
    seed_noise(device, seed, "pictures", 0, 0)
    samples = prior_samples(trained.model, torch.zeros(num, *trained.x_shape, device=device))
    seed_noise(device, seed, "pictures", 1, 0)
    x, labels = next(iter(data.in_order(split, max(num, NUM_INFERRED), device=device))), data.labels.get(split)
    labels = None if labels is None else labels[: len(x)]
    with engine(trained.config.train.engine, 1):
        subject = Subject.of(split, trained.model, trained.guide, x, labels, data.class_names)
    seed_noise(device, seed, "pictures", 2, 0)
    if not can_decode(trained.model):
        return {**samples, "inputs": subject.x[:num]}
    return {**samples, **reconstructions(subject, num), **walks(subject)}


def write_samples(folder: str | Path, arrays: dict[str, Tensor], meta: dict[str, Any]) -> list[Path]:
    """Writes what `make_samples` gave into a folder that is there, as pictures and `samples.npz`; returns the paths."""
    drawn = {Path(folder) / f"{name}.png": figure for name, figure in _figures(arrays).items()}
    for path, figure in drawn.items():
        with replacing(path) as part:
            figure.savefig(part, dpi=150, format="png")
    path = Path(folder) / "samples.npz"
    saved: dict[str, Any] = {name: value.cpu().numpy() for name, value in arrays.items()}
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, **saved, meta=np.array(json.dumps(meta, ensure_ascii=False)))
    return [*drawn, path]


@torch.no_grad()
def prior_samples(model: Any, like: Tensor) -> dict[str, Tensor]:
    """`draws` and `z`, and of a model with `decode` `samples`: as many, and of the shape, as `like`."""
    z, draws = simulate(model, like, len(like))
    return {**({"samples": model.decode(z).mean} if can_decode(model) else {}), "draws": draws, "z": z}


def _figures(arrays: dict[str, Tensor]) -> dict[str, Figure]:
    columns = math.ceil(math.sqrt(len(arrays["draws"])))
    if "samples" not in arrays:
        return {"draws": figures.datapoint_grid(arrays["draws"], columns, like=arrays["inputs"])}
    rows = {"input": arrays["inputs"], "at λ₀": arrays["reconstructions_init"]}
    if not torch.equal(arrays["reconstructions_init"], arrays["reconstructions"]):  # a guide that refines
        rows["at λ_K"] = arrays["reconstructions"]
    samples = figures.datapoint_grid(arrays["samples"], columns, like=arrays["inputs"])
    shown = figures.datapoint_rows(rows, NUM_SHOWN)
    if arrays["inputs"].dim() == 4:
        samples.set_size_inches(side := min(8.0, max(4.0, 0.5 * columns)), side + 0.3)
        shown.set_size_inches(8, shown.get_figheight() + 0.3)
    samples.suptitle("E[x | z] at draws from the prior")
    shown.suptitle("Data, and E[x | z] at the means of q")
    walked = {name: walk_figure(name, arrays) for name in ("traversals", "interpolations")}
    return {"samples": samples, "reconstructions": shown} | {n: figure for n, figure in walked.items() if figure}

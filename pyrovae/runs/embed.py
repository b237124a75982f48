"""λ of a whole split, in one file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ..capture import engine
from ..data import Dataset, Split
from ..evaluation.subject import posterior_mean
from ..files import npz_stream
from ..training.noise import seed_noise
from .folder import provenance
from .load import Trained


def embed(
    trained: Trained, data: Dataset, path: str | Path,
    *, split: Split = "test", batch_size: int = 500, meta: Mapping[str, Any] | None = None, progress: bool = False,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Writes λ₀ and λ_K of all datapoints of a split to a .npz file, with memory for one batch; returns shapes by name.

    Arrays, of which row i is of datapoint i of `data.<split>`: `params_init` and `params` (N, P), λ₀ and λ_K;
    `mean_init` and `mean` (N, D), the means of q at them; `labels` (N,) if there are any; `index` (N,), i itself; `row`
    (N,), the datapoint's row in the user's file, or in the data set before it was split; the covariates of the split by
    their own names, `covariate_NAME` where that is taken; and `meta`, a JSON text. A guide that does not refine has
    λ_K = λ₀. Binary images are drawn once, from the data set's seed; the noise of refinement is a function of the run's
    seed and the number of the batch.

    Args:
        trained: Model and guide; moved to the GPU, if there is one.
        path: The file; an OSError, if it cannot be written.
        batch_size: Datapoints inferred at a time.
        meta: More for the JSON text: the run's name, say.

    >>> import torch
    >>> import pyrovae as pv
    >>> from tempfile import TemporaryDirectory
    >>> config = pv.config.check({"model": {"z_dim": 3}})
    >>> trained = Trained(*pv.config.build_model(config, (6,)), config, (6,))
    >>> with TemporaryDirectory() as folder:
    ...     embed(trained, pv.data.Dataset("zeros", "made", *torch.zeros(3, 5, 6)), f"{folder}/z.npz")["mean"]
    (5, 3)
    """
    family, labels, n = trained.guide.family, data.labels.get(split), len(getattr(data, split))
    own = {"seed": trained.config.train.seed, "batch_size": batch_size}
    text = np.array(json.dumps({**(meta or {}), **provenance(trained, data, split), **own}, ensure_ascii=False))
    widths = {"params_init": family.num_params, "params": family.num_params}
    widths |= {"mean_init": family.z_dim, "mean": family.z_dim}
    arrays: dict[str, tuple[tuple[int, ...], Any]] = {
        **{name: ((n, width), np.float32) for name, width in widths.items()},
        "index": ((n,), np.int64),
        "row": ((n,), np.int64),
        **({} if labels is None else {"labels": ((n,), np.int64)}),
        "meta": ((), text.dtype),
    }
    beside = {name.replace("/", "_"): column for name, column in data.covariates.get(split, {}).items()}
    beside = {f"covariate_{name}" if name in arrays else name: column for name, column in beside.items()}
    arrays |= {name: (column.shape, column.dtype) for name, column in beside.items()}
    with npz_stream(Path(path), arrays) as append:
        append(meta=text, index=np.arange(n), row=data.origin(split).numpy())
        append(**({} if labels is None else {"labels": labels.numpy()}))
        for start in range(0, n, batch_size):
            append(**{name: column[start : start + batch_size] for name, column in beside.items()})
        for rows in _batches(trained, data, split, batch_size, progress):
            append(**{name: value.detach().float().cpu().numpy() for name, value in rows.items()})
    return {name: shape for name, (shape, _) in arrays.items()}


def _batches(
    trained: Trained, data: Dataset, split: Split, batch_size: int, progress: bool
) -> Iterator[dict[str, Tensor]]:
    """λ₀, λ_K and means of each batch in turn."""
    device, config, family = trained.moved(), trained.config.train, trained.guide.family
    batches = data.in_order(split, batch_size, device=device)
    for index, x in enumerate(tqdm(batches, f"inferring {split}", unit="batch", disable=None if progress else True)):
        seed_noise(device, config.seed, "evaluation", index, 0)
        with engine(config.engine, len(batches)):
            inferred = trained.infer(x)
        mean_init = posterior_mean(family, inferred.init)  # (B, D)
        mean = mean_init if inferred.params is inferred.init else posterior_mean(family, inferred.params)
        yield {"params_init": inferred.init, "params": inferred.params, "mean_init": mean_init, "mean": mean}

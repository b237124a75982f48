"""λ of a whole split, in one file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..capture import engine
from ..data import Dataset, Split
from ..evaluation.draws import posterior_mean
from ..files import NpzStream
from ..inference import Inferred
from ..training.noise import seed_noise
from .folder import provenance
from .load import Trained


def embed(
    trained: Trained,
    data: Dataset,
    path: str | Path,
    *,
    split: Split = "test",
    batch_size: int = 500,
    meta: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Writes λ₀ and λ_K of every image of a split to a .npz file, with memory for one batch.

    Arrays, of which row i is of image i of `data.<split>`: `params_init` and `params` (N, P), λ₀ and λ_K; `mean_init`
    and `mean` (N, D), the means of q at them; `labels` (N,) if there are any; `index` (N,); and `meta`, a JSON text. A
    guide that does not refine has λ_K = λ₀. Binary images are drawn once, from the data set's seed; the noise of
    refinement is a function of the run's seed and the number of the batch.

    Args:
        trained: Model and guide; moved to the GPU, if there is one.
        data: Images.
        path: The file.
        split: `train`, `val` or `test`.
        batch_size: Images inferred at a time.
        meta: More for the JSON text: the run's name, say.
        progress: Show a bar.

    Returns:
        Shapes by name.

    Raises:
        OSError: The file cannot be written.
    """
    family, labels = trained.guide.family, data.labels.get(split)
    facts = {
        **(meta or {}),
        **provenance(trained, data, split),
        "seed": trained.config.train.seed,
        "batch_size": batch_size,
    }
    text, n = np.array(json.dumps(facts, ensure_ascii=False)), len(getattr(data, split))
    arrays: dict[str, tuple[tuple[int, ...], Any]] = {
        "params_init": ((n, family.num_params), np.float32),
        "params": ((n, family.num_params), np.float32),
        "mean_init": ((n, family.z_dim), np.float32),
        "mean": ((n, family.z_dim), np.float32),
        "index": ((n,), np.int64),
        **({} if labels is None else {"labels": ((n,), np.int64)}),
        "meta": ((), text.dtype),
    }
    with NpzStream(Path(path), arrays) as stream:
        stream.append(meta=text, index=np.arange(n), **({} if labels is None else {"labels": labels.numpy()}))
        for rows in _batches(trained, data, split, batch_size, progress):
            stream.append(**{name: value.detach().float().cpu().numpy() for name, value in rows.items()})
    return {name: shape for name, (shape, _) in arrays.items()}


def _batches(
    trained: Trained, data: Dataset, split: Split, batch_size: int, progress: bool
) -> Iterator[dict[str, Tensor]]:
    """λ₀, λ_K and means of each batch in turn."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained.model.to(device)
    trained.guide.to(device)
    batches, config = data.in_order(split, batch_size, device=device), trained.config.train
    for index, x in enumerate(tqdm(batches, f"inferring {split}", unit="batch", disable=None if progress else True)):
        seed_noise(device, config.seed, "evaluation", index, 0)
        with engine(config.engine, len(batches)):
            inferred = trained.infer(x)
        yield _rows(trained, inferred)


def _rows(trained: Trained, inferred: Inferred) -> dict[str, Tensor]:
    family, refined = trained.guide.family, inferred.params is not inferred.init
    mean_init = posterior_mean(family, inferred.init)  # (B, D)
    mean = posterior_mean(family, inferred.params) if refined else mean_init
    return {"params_init": inferred.init, "params": inferred.params, "mean_init": mean_init, "mean": mean}

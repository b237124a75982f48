"""How long training will take, before it starts."""

import json
import warnings
from collections.abc import Mapping, Sequence
from time import perf_counter

import torch
from torch import Tensor

from ..capture import engine
from ..config import Config, build_data, build_model, fit_arguments
from ..config.build import check_views
from ..data import Dataset
from ..training.loss import BatchLoss
from .plan import Cell

_NUM_TIMED = 2  # batches


def check_builds(cells: Sequence[Cell]) -> dict[str, Dataset]:
    """Builds model and guide of each scheme once: pairs that cannot work are found before anything is trained.

    Returns:
        The data of each scheme.

    Raises:
        ConfigError: A pair that cannot work.
        DataError: Data that cannot be had.
    """
    read, found = dict[str, Dataset](), dict[str, Dataset]()
    for cell in cells:
        if cell.scheme not in found:
            key = json.dumps([cell.config.dataset.model_dump(mode="json"), _likelihood(cell.config)])
            read[key] = found[cell.scheme] = read[key] if key in read else build_data(cell.config)
            check_views(cell.config, found[cell.scheme])
            build_model(cell.config, found[cell.scheme].x_shape)
    return found


def _likelihood(config: Config) -> str | None:
    block = getattr(config.model, "likelihood", None)  # which a model of one's own may not have
    return block and block.type


def training_seconds(
    cells: Sequence[Cell], todo: Sequence[Cell], data: Mapping[str, Dataset], num_threads: int | None = None
) -> dict[str, float]:
    """Seconds of training of each scheme that is to do: an estimate.

    A finished seed tells what the others take. Of a scheme without one, two training steps are timed, eagerly: a
    training that is long enough to be compiled takes less. Evaluation is not counted.

    Args:
        cells: All of the comparison.
        todo: Those that are not trained.
        data: Of each scheme to do.
        num_threads: Threads to time with; by default those that `train.num_threads` says.
    """
    before = torch.get_num_threads()
    estimates: dict[str, float] = {}
    for cell in todo:
        if cell.scheme in estimates:
            continue
        finished = [c.run_dir / "summary.json" for c in cells if c.scheme == cell.scheme]
        known = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in finished if path.is_file()]
        try:
            torch.set_num_threads(num_threads or cell.config.train.num_threads or before)
            estimates[cell.scheme] = sum(known) / len(known) if known else _timed(cell.config, data[cell.scheme])
        finally:
            torch.set_num_threads(before)
    return estimates


def _timed(config: Config, data: Dataset) -> float:
    model, guide = build_model(config, data.x_shape)
    loss = BatchLoss(fit_arguments(config)["objective"](model, guide))
    batch_size = config.dataset.batch_size
    batches = iter(data.batches("train", batch_size))
    x = next(batches)
    num_steps = -(-len(data.train) // batch_size) * config.train.epochs
    with engine("eager"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about its own forward-mode derivatives
        _step(loss, x)  # what is done once
        start = perf_counter()
        for _ in range(_NUM_TIMED):
            _step(loss, x)
    return (perf_counter() - start) / _NUM_TIMED * num_steps


def _step(loss: BatchLoss, x: Tensor) -> None:
    value, _ = loss(x, 1.0)
    value.backward()

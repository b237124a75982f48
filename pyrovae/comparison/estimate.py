"""What a comparison would do, and how long that would take, before it starts."""

import json
import warnings
from collections.abc import Mapping, Sequence
from time import perf_counter

from ..capture import engine
from ..config import Config, build_data, build_model, fit_arguments
from ..config.build import check_views
from ..data import Dataset
from ..runs.folder import threads_of
from ..runs.load import read_summary
from ..training.loss import BatchLoss
from .plan import Cell
from .state import State

_NUM_TIMED = 2  # training steps
_NOTE = (
    "An estimate: of a finished seed's seconds, or else of two eager steps. Compiling, where it pays, takes less; "
    "validation and evaluation come on top."
)


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
            likelihood = getattr(cell.config.model, "likelihood", None)  # which a model of one's own may not have
            key = json.dumps([cell.config.dataset.model_dump(mode="json"), likelihood and likelihood.type])
            read[key] = found[cell.scheme] = read[key] if key in read else build_data(cell.config)
            check_views(cell.config, found[cell.scheme])
            build_model(cell.config, found[cell.scheme].x_shape)
    return found


def described(cells: Sequence[Cell], states: Mapping[str, State], data: Mapping[str, Dataset], *, jobs: int) -> str:
    """A line for each cell: how far it is, what it is, and about how long its training will take.

    Args:
        cells: All of them.
        states: Of each, by `file_name`.
        data: Of each scheme that is to train.
        jobs: Cells side by side.
    """
    lines, total, num = list[str](), 0.0, dict.fromkeys(("new", "interrupted", "trained", "done"), 0)
    seconds: dict[str, float] = {}
    for cell in cells:
        found, time = states[cell.file_name], ""
        num[found] += 1
        if found in ("new", "interrupted"):
            if cell.scheme not in seconds:
                of_scheme = (read_summary(one.run_dir) for one in cells if one.scheme == cell.scheme)
                known = [summary["seconds"] for summary in of_scheme if summary]
                seconds[cell.scheme] = sum(known) / len(known) if known else _timed(cell.config, data[cell.scheme])
            total += seconds[cell.scheme]
            time = f", about {_duration(seconds[cell.scheme])}"
        lines.append(f"  {found:<12} {cell.name}: {_described(cell.config)}{time}")
    to_train = num["new"] + num["interrupted"]
    if to_train:
        lines.append(f"Training takes about {_duration(total / jobs)}, {jobs} at a time. {_NOTE}")
    head = f"{len(cells)} cells: {num['done']} done, {to_train} to train, {len(cells) - num['done']} to evaluate"
    return "\n".join([head, *lines])


def _timed(config: Config, data: Dataset) -> float:
    """Seconds of a training, by few of its steps."""
    model, guide = build_model(config, data.x_shape)
    loss = BatchLoss(fit_arguments(config)["objective"](model, guide))
    x = next(iter(data.batches("train", config.dataset.batch_size)))
    num_steps = -(-len(data.train) // config.dataset.batch_size) * config.train.epochs
    with engine("eager"), threads_of(config), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about its own forward-mode derivatives
        loss(x, 1.0)[0].backward()  # what is done once
        start = perf_counter()
        for _ in range(_NUM_TIMED):
            loss(x, 1.0)[0].backward()
    return (perf_counter() - start) / _NUM_TIMED * num_steps


def _described(config: Config) -> str:
    guide, refiner = config.guide, getattr(config.guide, "refiner", None)
    steps = getattr(refiner or guide, "num_steps", None)
    parts = {"guide": guide.type, "family": guide.family.type if hasattr(guide, "family") else None}
    parts |= {"refiner": refiner and refiner.type, "K =": steps, "epochs": config.train.epochs}
    return ", ".join([config.dataset.name, *(f"{name} {value}" for name, value in parts.items() if value is not None)])


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

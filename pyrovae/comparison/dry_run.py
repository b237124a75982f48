"""What a comparison would do."""

from collections.abc import Mapping, Sequence

from ..data import Dataset
from .estimate import training_seconds
from .plan import Cell
from .state import State

_NOTE = (
    "An estimate: of a finished seed's seconds, or else of two eager steps. Compiling, where it pays, takes less; "
    "validation and evaluation come on top."
)


def described(cells: Sequence[Cell], states: Mapping[str, State], data: Mapping[str, Dataset], *, num_jobs: int) -> str:
    """A line for each cell: how far it is, what it is, and about how long its training will take.

    Args:
        cells: All of them.
        states: Of each, by `file_name`.
        data: Of each scheme that is to train.
        num_jobs: Cells side by side.
    """
    untrained = [cell for cell in cells if states[cell.file_name] in ("new", "interrupted")]
    seconds = training_seconds(cells, untrained, data)
    lines = []
    for cell in cells:
        time = f", about {_duration(seconds[cell.scheme])}" if cell in untrained else ""
        lines.append(f"  {states[cell.file_name]:<12} {cell.name}: {_settings(cell)}{time}")
    num_done = sum(found == "done" for found in states.values())
    head = f"{len(cells)} cells: {num_done} done, {len(untrained)} to train, {len(cells) - num_done} to evaluate"
    total = sum(seconds[cell.scheme] for cell in untrained) / num_jobs
    if untrained:
        lines.append(f"Training takes about {_duration(total)}, {num_jobs} at a time. {_NOTE}")
    return "\n".join([head, *lines])


def _settings(cell: Cell) -> str:
    guide, train = cell.config.guide, cell.config.train
    refiner = getattr(guide, "refiner", None)
    steps = getattr(refiner or guide, "num_steps", None)
    parts = [
        cell.config.dataset.name,
        f"guide {guide.type}",
        *([f"family {guide.family.type}"] if hasattr(guide, "family") else []),
        *([f"refiner {refiner.type}"] if refiner is not None else []),
        *([f"K = {steps}"] if steps is not None else []),
        f"epochs {train.epochs}",
    ]
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"

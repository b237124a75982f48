"""How far a cell has come, as its folder tells, and who is at work there."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..config import ConfigError, build_data, changes
from ..files import check_writable
from ..runs.load import read_config, read_summary
from ..training import is_of
from .plan import Cell

State = Literal["new", "interrupted", "trained", "done"]


def state(run_dir: Path, evaluation: Mapping[str, Any]) -> State:
    """Whether a run is yet to start, to go on, to be evaluated, or done.

    Args:
        run_dir: The run.
        evaluation: Settings that its evaluation must have been made with, as JSON has them.
    """
    if read_summary(run_dir):
        return "done" if _is_evaluated(run_dir, evaluation) else "trained"
    return "interrupted" if (run_dir / "checkpoints" / "last.ckpt").is_file() else "new"


def _is_evaluated(run_dir: Path, evaluation: Mapping[str, Any]) -> bool:
    try:
        found = json.loads((run_dir / "evaluation.json").read_text(encoding="utf-8"))
        settings = {**found["settings"]}
    except (OSError, ValueError, KeyError, TypeError):  # cut off while it was written
        return False
    return all(name in settings and settings[name] == value for name, value in evaluation.items())


def check_unchanged(cells: Iterable[Cell]) -> None:
    """Checks that runs which are there are those that are planned, of the same data wherever they lie by now.

    Raises:
        ConfigError: One line for each value that differs.
        DataError: Data that a run was not made of, by their path, cannot be read.
    """
    sketches: dict[str, list[float]] = {}
    lines = [line for cell in cells if (cell.run_dir / "config.yaml").is_file() for line in _changes(cell, sketches)]
    if lines:
        raise ConfigError("\n".join(lines))


def _changes(cell: Cell, sketches: dict[str, list[float]]) -> list[str]:
    before = read_config(cell.run_dir, allow=cell.config.own_modules)
    found = changes(before, cell.config)
    for key in ("path", "root") if not found else ():
        old, new = (getattr(config.dataset, key, None) for config in (before, cell.config))
        if old != new and not _is_of_its_data(cell, key, sketches):
            found.append((f"dataset.{key}", old, new))
    return [
        f"{key}: {cell.name} was run with {old}, and is {new} now; name another --out, or remove {cell.run_dir}"
        for key, old, new in found
    ]


@contextmanager
def locked(file: Path, seconds: float = 0) -> Iterator[None]:
    """Holds a lock, on this file; waits for it so long.

    Raises:
        ConfigError: Another process has it.
    """
    check_writable(file.parent, "name another place with --out")
    lock = FileLock(file)
    try:
        lock.acquire(seconds)
    except Timeout as error:
        remedy = "wait for it, or name another --out"
        raise ConfigError(f"{file.parent}: a comparison is at work there; {remedy}") from error
    try:
        yield
    finally:
        lock.release()


def _is_of_its_data(cell: Cell, key: str, sketches: dict[str, list[float]]) -> bool:
    """Whether what lies at the planned place is what the run was trained on; a path alone tells nothing."""
    sketch = read_summary(cell.run_dir).get("sketch")
    if not sketch:  # stopped; a root is the same data set's, as a rule
        return key == "root"
    what = cell.config.dataset.model_dump_json()
    if what not in sketches:
        sketches[what] = build_data(cell.config).sketch()
    return is_of(sketch, sketches[what])

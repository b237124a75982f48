"""How far a cell has come, as its folder tells, and who is at work there."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ..config import ConfigError
from ..config.schema import WHERE_DATA_LIE
from ..files import check_writable
from ..runs.load import read_config, read_summary
from .plan import Cell

State = Literal["new", "interrupted", "trained", "done"]

# What may differ between the plan and a run that is there: none of it changes what is learned.
_FREE = {
    "dataset": WHERE_DATA_LIE - {"path"},  # an array's path is all that tells it from another
    "train": {"save_dir", "name", "num_threads", "log_every", "checkpoint_every", "accelerator", "strategy", "engine"},
}


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
    """Checks that runs which are there are those that are planned.

    Raises:
        ConfigError: One line for each value that differs.
    """
    lines = [line for cell in cells if (cell.run_dir / "config.yaml").is_file() for line in _changes(cell)]
    if lines:
        raise ConfigError("\n".join(lines))


def _changes(cell: Cell) -> list[str]:
    before = read_config(cell.run_dir, allow=cell.config.own_modules).model_dump(mode="json")
    after = cell.config.model_dump(mode="json")
    return [
        f"{section}.{key}: {cell.name} was run with {before[section].get(key)}, and is {after[section].get(key)} now; "
        f"name another --out, or remove {cell.run_dir}"
        for section in ("dataset", "model", "guide", "train")
        for key in sorted({**before[section], **after[section]}.keys() - _FREE.get(section, set()))
        if before[section].get(key) != after[section].get(key)
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

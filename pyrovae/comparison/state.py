"""How far a cell has come, as its folder tells."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from ..config import ConfigError, build_data, changes
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
    if (run_dir / "summary.json").is_file():
        return "done" if _is_evaluated(run_dir, evaluation) else "trained"
    return "interrupted" if (run_dir / "checkpoints" / "last.ckpt").is_file() else "new"


def _is_evaluated(run_dir: Path, evaluation: Mapping[str, Any]) -> bool:
    try:
        found = json.loads((run_dir / "evaluation.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # cut off while it was written
        return False
    settings = found.get("settings") or {}
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


def _is_of_its_data(cell: Cell, key: str, sketches: dict[str, list[float]]) -> bool:
    """Whether what lies at the planned place is what the run was trained on; a path alone tells nothing."""
    sketch = read_summary(cell.run_dir).get("sketch")
    if not sketch:  # stopped; a root is the same data set's, as a rule
        return key == "root"
    what = cell.config.dataset.model_dump_json()
    if what not in sketches:
        sketches[what] = build_data(cell.config).sketch()
    return is_of(sketch, sketches[what])

"""What evaluated cells left on disk."""

import csv
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config.schema import WHERE_DATA_LIE
from .measures import Estimate, as_estimate
from .plan import Cell

_NOT_OF_THE_DATA = WHERE_DATA_LIE | {"batch_size"}  # of `dataset:`


@dataclass(frozen=True)
class Result:
    """One evaluated cell.

    Attributes:
        cell: What was run.
        evaluation: `evaluation.json`.
        values: `evaluation.npz`, an entry per datapoint.
        curve: (seconds of training, validation ELBO) at each validation.
    """

    cell: Cell
    evaluation: Mapping[str, Any]
    values: Mapping[str, np.ndarray]
    curve: list[tuple[float, float]]

    @property
    def data(self) -> str:
        """Equal for results whose test images are the same ones."""
        dataset = self.cell.config.dataset.model_dump(mode="json", exclude={*_NOT_OF_THE_DATA})
        return json.dumps([self.evaluation.get("dataset"), dataset], sort_keys=True)

    @property
    def train_seconds(self) -> Estimate | None:
        """What training took without validation, in all its parts; else what its last part took."""
        return Estimate(self.curve[-1][0]) if self.curve else as_estimate(self.evaluation.get("train_seconds"))


def read_result(cell: Cell) -> Result:
    """Reads what the evaluation of a cell wrote."""
    evaluation = json.loads((cell.run_dir / "evaluation.json").read_text(encoding="utf-8"))
    values: dict[str, np.ndarray] = {}
    if (cell.run_dir / "evaluation.npz").is_file():
        with np.load(cell.run_dir / "evaluation.npz") as arrays:
            values = {name: arrays[name] for name in arrays.files}
    return Result(cell, evaluation, values, _curve(cell))


def read_results(cells: Iterable[Cell]) -> tuple[list[Result], list[str]]:
    """The results of cells, and a line for each whose evaluation is missing or damaged."""
    results, unreadable = [], []
    for cell in cells:
        try:
            results.append(read_result(cell))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            unreadable.append(f"{cell.name}: cannot read the evaluation in {cell.run_dir} ({error})")
    return results, unreadable


def by_scheme(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each scheme, one a seed."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.cell.scheme, []).append(result)
    return groups


def _curve(cell: Cell) -> list[tuple[float, float]]:
    path = cell.run_dir / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        (float(row["train/seconds"]), float(row["val/elbo"]))
        for row in rows
        if row.get("train/seconds") and row.get("val/elbo")
    ]

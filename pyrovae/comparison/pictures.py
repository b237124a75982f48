"""Reconstructions side by side."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from ..training.figures import image_rows
from .results import Result, by_scheme

_MOST = 14  # rows that one can look at


def reconstructions(results: Sequence[Result]) -> Figure | None:
    """The same test images by each scheme's first seed; None where there are no images."""
    rows: dict[str, torch.Tensor] = {}
    inputs: np.ndarray | None = None
    for name, group in by_scheme(results).items():
        values = group[0].values
        if not {"test/inputs", "test/reconstructions"} <= values.keys() or values["test/inputs"].ndim != 4:
            continue
        if inputs is None:
            inputs = values["test/inputs"]
            rows["input"] = torch.from_numpy(inputs)
        if np.array_equal(inputs, values["test/inputs"]) and len(rows) <= _MOST:  # else they are not comparable
            rows[name] = torch.from_numpy(values["test/reconstructions"])
    if len(rows) < 2:
        return None
    figure = image_rows(rows)
    row = (8 - 0.075 * max(map(len, rows))) / 12  # inches of an image beside the longest name
    figure.set_size_inches(8, 0.4 + (row + 0.15) * len(rows))
    figure.suptitle(f"Test images and their reconstructions at λ_K, seed {results[0].cell.seed}", fontsize=10)
    return figure

"""What a measure gives back."""

import math
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor


def estimate(values: Tensor) -> dict[str, float]:
    """Mean and standard error of per-datapoint values (N,)."""
    values = values.double()
    n = len(values)
    return {"mean": values.mean().item(), "se": values.std().item() / math.sqrt(n) if n > 1 else math.nan}


@dataclass
class Findings:
    """What a measure found.

    Attributes:
        numbers: For `evaluation.json`: nested dictionaries; means over datapoints are `estimate`s.
        values: For `evaluation.npz`, by name: an entry per datapoint (N,), or (N, ...).
        figures: For people, by file name without suffix.
        warnings: Sentences about what is not to be trusted, and what to do.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

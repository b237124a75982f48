"""Values that a likelihood has no density for: how many, and where."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .rows import Rows, chunks
from .scaling import is_entrywise

Allowed = Callable[[Tensor], Tensor]

_FEW = 256  # datapoints looked at where each would have to be decoded or drawn
_PATIENCE = 2.0  # seconds without a bar


@dataclass
class Outside:
    """What was found, over all splits.

    Attributes:
        num_values: Looked at.
        num: Of them outside.
        num_nan, num_infinite: Of those.
        num_whole: Of those, whole numbers.
        low, high: Of all finite values.
        split, row, value: The first one: its split, its datapoint's number in what was read, and itself.
        drawn_from: Whether these are not x itself but what binary x is drawn from, so that they must be in [0, 1].
    """

    num_values: int = 0
    num: int = 0
    num_nan: int = 0
    num_infinite: int = 0
    num_whole: int = 0
    low: float = math.inf
    high: float = -math.inf
    split: str = ""
    row: int = -1
    value: float = math.nan
    drawn_from: bool = False

    def __str__(self) -> str:
        strange = {"NaN": self.num_nan, "infinite": self.num_infinite}
        told = [f"{num:,} of them {name}" for name, num in strange.items() if num]
        first = f"the first is {self.value:.6g} in row {self.row} ({self.split})"
        spread = (
            f"finite values are in [{self.low:.6g}, {self.high:.6g}]" if self.low <= self.high else "none is finite"
        )
        return ", ".join([f"{self.num:,} of {self.num_values:,} values", *told, first, spread])


def outside(
    name: str,
    splits: Mapping[str, Rows],
    preprocess: Callable[[Tensor], Tensor],
    allowed: Allowed,
    *,
    drawn_from: bool = False,
) -> Outside | None:
    """Looks at all values of rows that are at hand, and at a few of others, with memory for some megabytes.

    Args:
        name: Of the data set.
        splits: Rows by split.
        preprocess: From rows to values.
        allowed: Which entries of its argument are inside.
        drawn_from: As in `Outside`; `allowed` is then of no matter.
    """
    found = Outside(drawn_from=drawn_from)
    inside = _in_unit_interval if drawn_from else allowed
    for split, rows in splits.items():
        if rows.dtype == torch.uint8 and is_entrywise(preprocess):
            every = preprocess(torch.arange(256, dtype=torch.uint8))
            if inside(every).all():  # so that none needs to be read
                continue
        for numbers in _chunks(rows, f"checking {split} of {name}"):
            _look(found, split, rows.origin(numbers), preprocess(rows.read(numbers)), inside)
    return found if found.num else None


def _in_unit_interval(x: Tensor) -> Tensor:
    return (x >= 0) & (x <= 1)


def _chunks(rows: Rows, what: str) -> Iterator[Tensor]:
    """Numbers of datapoints, in the order in which they lie in the file."""
    numbers = torch.arange(len(rows) if rows.at_hand else min(_FEW, len(rows)), device=rows.device)
    numbers = numbers[rows.origin(numbers).argsort()]
    yield from tqdm(chunks(numbers, rows), what, unit="chunk", delay=_PATIENCE, disable=None)


def _look(found: Outside, split: str, rows: Tensor, x: Tensor, inside: Allowed) -> None:
    """Adds a chunk, values `x` (B, *x_shape) of the rows `rows` (B,)."""
    found.num_values += x.numel()
    finite = x.isfinite()
    part = x if finite.all() else x[finite]
    if part.numel():
        low, high = part.aminmax()
        found.low, found.high = min(found.low, low.item()), max(found.high, high.item())
    bad = ~inside(x)
    if not bad.any():
        return
    values = x[bad]
    if not found.num:
        found.split, found.value = split, values[0].item()
        found.row = int(rows[bad.flatten(1).any(1)][0])
    found.num += len(values)
    found.num_nan += int(values.isnan().sum())
    found.num_infinite += int(values.isinf().sum())
    found.num_whole += int((values == values.round()).sum() - values.isinf().sum())

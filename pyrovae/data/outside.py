"""Values that a likelihood has no density for: how many, and where; and which files are known to have none."""

import hashlib
import inspect
import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import constraints
from tqdm.auto import tqdm

from .normalization import Scaled, as_floats, is_entrywise
from .rows import Rows, chunks

if TYPE_CHECKING:
    from .dataset import Dataset

Allowed = Callable[[Tensor], Tensor]

_FEW = 256  # datapoints looked at where each would have to be decoded or drawn
_PATIENCE = 2.0  # seconds without a bar


@dataclass
class Outside:
    """What was found, over all splits.

    Attributes:
        num_values, num: Looked at; of them outside.
        num_nan, num_infinite, num_whole: Of those outside.
        low, high: Of all finite values.
        split, row, value: Of the first one outside: its split, its datapoint's number in what was read, and itself.
        drawn_from: Whether these are what binary x is drawn from, so that they must be in [0, 1].

    >>> str(Outside(num_values=9, num=1, low=0, high=3, split="val", row=7, value=3))
    '1 of 9 values, the first is 3 in row 7 (val), finite values are in [0, 3]'
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
        span = f"finite values are in [{self.low:.6g}, {self.high:.6g}]" if self.low <= self.high else "none is finite"
        return ", ".join([f"{self.num:,} of {self.num_values:,} values", *told, first, span])

    def look(self, split: str, rows: Tensor, x: Tensor, inside: Allowed) -> None:
        """Adds a chunk, values `x` (B, *x_shape) of the rows `rows` (B,)."""
        self.num_values += x.numel()
        finite, bad = x.isfinite(), ~inside(x)
        part = x if finite.all() else x[finite]
        if part.numel():
            low, high = part.aminmax()
            self.low, self.high = min(self.low, low.item()), max(self.high, high.item())
        if not bad.any():
            return
        values = x[bad]
        if not self.num:
            self.split, self.value = split, values[0].item()
            self.row = int(rows[bad.flatten(1).any(1).cpu()][0])
        self.num += len(values)
        self.num_nan += int(values.isnan().sum())
        self.num_infinite += int(values.isinf().sum())
        self.num_whole += int((values == values.round()).sum() - values.isinf().sum())


def outside(data: "Dataset", allowed: Allowed) -> Outside | None:
    """What x, or the values that it is drawn from, has outside a support, of which `allowed` tells; None if nothing.

    Looks once at all values in a file or in memory, with memory for some megabytes, and at a few datapoints where each
    would have to be decoded or drawn. A file in which there was nothing to find is not read again for the same question
    until it changes: an empty file in the user's cache folder says so.
    """
    if allowed in data.passed:
        return None
    found, mark, known, preprocess = Outside(drawn_from=data.binarize != "none"), None, False, data.preprocess
    inside = constraints.unit_interval.check if found.drawn_from else allowed
    pixels = is_entrywise(preprocess) and inside(preprocess(torch.arange(256, dtype=torch.uint8))).all()
    splits = {split: (data.rows(split), data.origin(split)) for split in ("train", "val", "test")}
    to_read = {split: of for split, of in splits.items() if of[0].dtype != torch.uint8 or not pixels}
    with suppress(OSError, RuntimeError):  # no file, no home
        mark = _mark(to_read, preprocess, inside)
        known = mark is not None and mark.exists()
    for split, (rows, origin) in ({} if known else to_read).items():  # each in the order in which it lies in the file
        numbers = origin[: len(rows) if rows.at_hand else _FEW].argsort().to(rows.device)
        for part in tqdm(chunks(numbers, rows), f"checking {split} of {data.name}", delay=_PATIENCE, disable=None):
            found.look(split, origin[part.cpu()], preprocess(rows.read(part)), inside)
    if found.num:
        return found
    data.passed.add(allowed)
    if mark is not None:
        with suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    return None


def cache_folder() -> Path:
    """What is kept between runs: `PYROVAE_CACHE`, or else `pyrovae` in the user's cache folder."""
    if chosen := os.environ.get("PYROVAE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyrovae"


def _mark(splits: Mapping[str, tuple[Rows, Tensor]], preprocess: Any, inside: Allowed) -> Path | None:
    """The file that is there if these rows have nothing outside; None if they or the question have no lasting name."""
    question = _named(inside)
    if not splits or question is None or not (preprocess is as_floats or isinstance(preprocess, Scaled)):
        return None
    key = hashlib.sha256(f"{question} {'' if preprocess is as_floats else preprocess}".encode())
    for split, (rows, origin) in splits.items():
        if (at := rows.lies_at()) is None:
            return None
        (file, where), stat = at, at[0].stat()
        key.update(f"{split} {file.resolve()} {where} {stat.st_size} {stat.st_mtime_ns} {rows.shape}".encode())
        key.update(origin.numpy().tobytes())
    return cache_folder() / "inside" / key.hexdigest()


def _named(inside: Any) -> str | None:
    """A support's name that means the same in the next process."""
    if (owner := getattr(inside, "__self__", None)) is None:  # a likelihood's class, or a constraint
        return None
    kind = owner if inspect.isclass(owner) else type(owner)
    name = f"{kind.__module__}.{kind.__qualname__}.{inside.__name__} {getattr(owner, 'support', owner)!r}"
    return None if " at 0x" in name or not name.startswith(("pyrovae.", "torch.")) else name

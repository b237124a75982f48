"""What there is to know of a data set, in numbers and in words."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data import SPLITS, Augmentation, Dataset, Rows, Split
from ..data.normalization import Preprocess, Scaled, as_floats
from ..data.sizes import size

_DATAPOINTS, _VALUES = 2048, 2**23  # looked at, of a split, at most; a batch at least
_FEW = 20  # classes that are all listed
_BINARIZE = {
    "dynamic": "dynamic: x ~ Bernoulli(grey), drawn anew in each epoch; of validation and test once",
    "static": "static: x ~ Bernoulli(grey), drawn once",
    "none": "none",
}


@dataclass(frozen=True, eq=False)
class SplitReport:
    """One split.

    Attributes:
        rows: The raw datapoints.
        x: Some of them as the model sees them, (M, *x_shape): of training the first batches of an epoch, augmented; of
            validation and test datapoints at even distances.
        class_counts: (num_classes,), or None without labels.
        num_unlabelled: Datapoints whose class number is negative.

    >>> import pyrovae as pv
    >>> inspected(pv.data.Dataset("zeros", "made", *torch.zeros(3, 5, 6))).splits["val"].x.shape
    torch.Size([5, 6])
    """

    rows: Rows
    x: Tensor
    class_counts: Tensor | None
    num_unlabelled: int


@dataclass(frozen=True, eq=False)
class DataReport:
    """A data set.

    Attributes:
        data: Itself.
        splits: By name.
        batch_size: Datapoints a batch.
        num_batches: Of an epoch of training.
        num_timed: Batches that were timed.
        per_second: Datapoints a second that training batches come with.

    >>> import pyrovae as pv
    >>> inspected(pv.data.Dataset("zeros", "made", *torch.zeros(3, 5, 6)), batch_size=2).num_batches
    3
    """

    data: Dataset
    splits: dict[Split, SplitReport]
    batch_size: int
    num_batches: int
    num_timed: int
    per_second: float


def inspected(data: Dataset, *, batch_size: int = 128, seed: int = 0, progress: bool = False) -> DataReport:
    """Reads some batches.

    Args:
        data: Any.
        batch_size: Datapoints a batch.
        seed: Of the order and the draws of training.
        progress: Show a bar, where stderr is a terminal.

    >>> import pyrovae as pv
    >>> inspected(pv.data.Dataset("zeros", "made", *torch.zeros(3, 5, 6))).num_timed
    1
    """
    limit = max(1, min(_DATAPOINTS, _VALUES // math.prod(data.x_shape)))
    wanted = {split: min(limit, len(data.rows(split))) for split in SPLITS}
    x: dict[Split, list[Tensor]] = {split: [] for split in SPLITS}
    seconds, loader = list[float](), data.batches("train", batch_size, seed=seed)
    bar = tqdm(total=sum(wanted.values()), desc="looking at data", unit="datapoint", disable=None if progress else True)
    with bar:
        start = perf_counter()
        for batch in loader:
            seconds.append(perf_counter() - start)
            x["train"].append(batch)
            bar.update(len(batch))
            if sum(map(len, x["train"])) >= wanted["train"]:
                break
            start = perf_counter()
        for split in SPLITS[1:]:
            rows, num = data.rows(split), wanted[split]
            for numbers in (torch.arange(num, device=rows.device) * len(rows) // num).split(
                batch_size
            ):  # may be sorted
                x[split].append(data.finish(split, rows.read(numbers), numbers))
                bar.update(len(numbers))
    first = min(1, len(seconds) - 1)  # the first batch of several also shuffles and warms up
    per_second = sum(map(len, x["train"][first:])) / sum(seconds[first:])
    splits = {split: SplitReport(data.rows(split), torch.cat(x[split]), *_classes(data, split)) for split in SPLITS}
    return DataReport(data, splits, batch_size, len(loader), len(seconds) - first, per_second)


def _classes(data: Dataset, split: Split) -> tuple[Tensor | None, int]:
    """Datapoints of each class, and of none."""
    if (labels := data.labels.get(split)) is None:
        return None, 0
    num = max(len(data.class_names), *(int(of.max()) + 1 for of in data.labels.values()))
    counts = labels[labels >= 0].long().bincount(minlength=num)
    return counts if num else None, int((labels < 0).sum())


def words(report: DataReport) -> str:
    """What the data set is, where it lies, its values as the model sees them, its classes, and how fast it comes.

    >>> import pyrovae as pv
    >>> print(words(inspected(pv.data.Dataset("zeros", "made", *torch.zeros(3, 5, 6)))))
    data       zeros: made
    x          (6,), vectors of 6 entries
    ...
    """
    data, dtype = report.data, report.data.rows("train").dtype
    beside = [
        f"{name} {array.dtype} {array.shape[1:] or ''}".strip()
        for name, array in data.covariates.get("train", {}).items()
    ]
    facts = {
        "data": f"{data.name}: {data.source}",
        "x": f"{data.x_shape}, {_kind(data.x_shape)}",
        "raw to x": _of_function(data.preprocess, dtype),
        "augment": "none" if data.augment is None else _of_function(data.augment, dtype),
        "binarize": _BINARIZE[data.binarize],
        "covariates": ", ".join(beside),
        "groups": ", ".join(f"{_count(len(of.unique()), 'group')} in {split}" for split, of in data.groups.items()),
        "loading": f"{report.per_second:,.0f} datapoints/s over {_count(report.num_timed, 'batch', 'batches')} of "
        f"{report.batch_size}; {_count(report.num_batches, 'batch', 'batches')} an epoch",
    }
    told = "\n".join(f"{name:<10} {text}" for name, text in facts.items() if text)
    lines = [("split", "datapoints", "raw", "size", "lies in")]
    for name, split in report.splits.items():
        rows, num_bytes = split.rows, math.prod(split.rows.shape) * split.rows.dtype.itemsize
        lines.append((name, f"{len(rows):,}", str(rows.dtype).removeprefix("torch."), size(num_bytes), rows.place))
    return "\n\n".join([told, _table(lines), _values(report), _classes_told(report)])


def _kind(x_shape: Sequence[int]) -> str:
    if len(x_shape) == 1:
        return f"vectors of {_count(x_shape[0], 'entry', 'entries')}"
    if len(x_shape) != 3:
        return f"arrays of {len(x_shape)} dimensions"
    channels, height, width = x_shape
    color = {1: "grey images", 3: "RGB images"}.get(channels, f"images of {channels} channels,")
    return f"{color} of {height} x {width} pixels"


def _of_function(function: Any, dtype: torch.dtype) -> str:
    """What a function, or an object that is called, says of itself."""
    if isinstance(function, Augmentation):
        return f"training images are {function}" if function else "none"
    if function is as_floats:
        return "pixels of 8 bits, over 255" if dtype == torch.uint8 else "as it is"
    if isinstance(function, Scaled):
        return "as it is" if function.scale == 1 else f"over {function.scale:.4g}"
    if isinstance(function, Preprocess):
        return f"{_of_function(function.first, dtype)}; then {_of_function(function.normalization, dtype)}"
    about = (inspect.getdoc(function) or "").split("\n")[0]
    if inspect.isroutine(function):
        return about or function.__qualname__
    return ": ".join(filter(None, [" ".join(repr(function).split()), about]))


def _values(report: DataReport) -> str:
    lines: list[tuple[str, ...]] = [("x", "datapoints", "min", "mean", "sd", "max", "zeros")]
    warnings = []
    for name, split in report.splits.items():
        x = split.x.double()
        finite = x[x.isfinite()]
        if len(finite) < x.numel():
            warnings.append(f"{x.numel() - len(finite):,} of the values of {name} are not finite, and left out here")
        if len(finite):
            numbers = (finite.min(), finite.mean(), finite.std(correction=0), finite.max())
            zeros = f"{100 * (finite == 0).double().mean().item():.1f} %"
            seen = f"{len(split.x):,} of {len(split.rows):,}"
            lines.append((name, seen, *(f"{number.item():.4g}" for number in numbers), zeros))
    return "\n".join([_table(lines), *warnings])


def _classes_told(report: DataReport) -> str:
    counts = {name: split.class_counts for name, split in report.splits.items() if split.class_counts is not None}
    if not counts:
        return "no labels"
    total, names = torch.stack(list(counts.values())).sum(0), report.data.class_names
    chosen, about = list(range(len(total))), ""
    if len(total) > _FEW:
        order, low, high = total.argsort(descending=True, stable=True).tolist(), total.min().item(), total.max().item()
        chosen, sizes = [*order[:3], *order[-3:]], f"{low:,}" if low == high else f"{low:,} to {high:,}"
        about = f"{len(total)} classes, of {sizes} datapoints; the largest and the smallest:\n"
    names = (*names, *map(str, range(len(names), len(total))))
    lines = [("class", *counts)] + [(names[i], *(f"{of[i].item():,}" for of in counts.values())) for i in chosen]
    missing = sum(split.num_unlabelled for split in report.splits.values())
    return about + _table(lines) + (f"\n{missing:,} datapoints have no label" if missing else "")


def _count(num: int, one: str, many: str = "") -> str:
    return f"{num:,} {one if num == 1 else many or f'{one}s'}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Columns, the first and long texts to the left, numbers to the right."""
    columns = list(zip(*lines, strict=True))
    padded = []
    for i, column in enumerate(columns):
        side, width = "<" if i == 0 or column[0] in ("raw", "lies in") else ">", max(map(len, column))
        padded.append([f"{text:{side}{width}}" for text in column])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))

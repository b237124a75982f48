"""A report as text."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data import Augmentation, Dataset
from ..data.normalization import Preprocess
from ..data.scaling import Scaled, as_floats
from ..data.sizes import size
from .report import DataReport
from .table import table

_FEW = 20  # classes that are all listed

_BINARIZE = {
    "dynamic": "dynamic: x ~ Bernoulli(grey), drawn anew in each epoch; of validation and test once",
    "static": "static: x ~ Bernoulli(grey), drawn once",
    "none": "none",
}


def words(report: DataReport) -> str:
    """What the data set is, where it lies, its values as the model sees them, its classes, and how fast it comes."""
    data = report.data
    facts = {
        "data": f"{data.name}: {data.source}",
        "x": f"{data.x_shape}, {_kind(data.x_shape)}",
        "raw to x": _of_function(data.preprocess, data.rows("train").dtype),
        "augment": "none" if data.augment is None else _of_function(data.augment, data.rows("train").dtype),
        "binarize": _BINARIZE[data.binarize],
        "loading": f"{report.per_second:,.0f} datapoints/s over {_count(report.num_timed, 'batch', 'batches')} of "
        f"{report.batch_size}; {_count(report.num_batches, 'batch', 'batches')} an epoch",
    }
    return "\n\n".join(
        [
            "\n".join(f"{name:<10} {text}" for name, text in facts.items()),
            _where(report),
            _values(report),
            _classes(report),
        ]
    )


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


def _where(report: DataReport) -> str:
    lines = [("split", "datapoints", "raw", "size", "lies in")]
    for name, split in report.splits.items():
        rows = split.rows
        lines.append((name, f"{len(rows):,}", _dtype(rows.dtype), size(split.num_bytes), rows.place))
    return table(lines)


def _values(report: DataReport) -> str:
    lines: list[tuple[str, ...]] = [("x", "datapoints", "min", "mean", "sd", "max", "zeros")]
    warnings = []
    for name, split in report.splits.items():
        x = split.x.double()
        finite = x[x.isfinite()]
        if len(finite) < x.numel():
            warnings.append(f"{x.numel() - len(finite):,} of the values of {name} are not finite, and left out here")
        if len(finite) == 0:
            continue
        numbers = (finite.min(), finite.mean(), finite.std(correction=0), finite.max())
        zeros = f"{100 * (finite == 0).double().mean().item():.1f} %"
        seen = f"{len(split.x):,} of {len(split.rows):,}"
        lines.append((name, seen, *(f"{number.item():.4g}" for number in numbers), zeros))
    return "\n".join([table(lines), *warnings])


def _classes(report: DataReport) -> str:
    counts = {name: split.class_counts for name, split in report.splits.items() if split.class_counts is not None}
    if not counts:
        return "no labels"
    total = torch.stack(list(counts.values())).sum(0)
    order = total.argsort(descending=True, stable=True).tolist() if len(total) > _FEW else list(range(len(total)))
    chosen = order if len(order) <= _FEW else [*order[:3], *order[-3:]]
    names = _class_names(report.data, len(total))
    lines = [("class", *counts)] + [(names[i], *(f"{of[i].item():,}" for of in counts.values())) for i in chosen]
    text = table(lines)
    if len(order) > _FEW:
        text = f"{len(order)} classes, of {_range(total)} datapoints; the largest and the smallest:\n{text}"
    missing = sum(split.num_unlabelled for split in report.splits.values())
    return text + (f"\n{missing:,} datapoints have no label" if missing else "")


def _range(counts: Tensor) -> str:
    low, high = counts.min().item(), counts.max().item()
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _class_names(data: Dataset, num: int) -> list[str]:
    return [*data.class_names, *map(str, range(len(data.class_names), num))]


def _count(num: int, one: str, many: str) -> str:
    return f"{num:,} {one if num == 1 else many}"


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

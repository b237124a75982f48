"""What data sets there are, and what there is to know of one, in numbers and in words."""

import inspect
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, get_args, get_origin

import torch
import yaml
from torch import Tensor
from tqdm.auto import tqdm

from ..config import COMPONENTS
from ..config.components import Setting, signature
from ..config.schema import COMMON
from ..data import SPLITS, Dataset, Split
from ..data.normalization import Preprocess
from ..data.sizes import size

_DATAPOINTS, _VALUES = 2048, 2**23  # looked at, of a split, at most; a batch at least
_FEW = 20  # classes that are all listed
_KINDS = {1: "grey images", 3: "RGB images"}


@dataclass(frozen=True, eq=False)
class DataReport:
    """A data set.

    Attributes:
        data: Itself.
        x: Datapoints of each split as the model sees them, (M, *x_shape): of training the first batches of an epoch,
            augmented; of validation and test some at even distances.
        batch_size, num_batches: Datapoints a batch, and batches an epoch of training.
        num_timed, per_second: Batches that were timed, and datapoints a second that they came with.

    >>> import pyrovae as pv
    >>> inspected(pv.data.Dataset("zeros", "made", *torch.zeros(3, 5, 6)), batch_size=2).x["val"].shape
    torch.Size([5, 6])
    """

    data: Dataset
    x: dict[Split, Tensor]
    batch_size: int
    num_batches: int
    num_timed: int
    per_second: float


def inspected(data: Dataset, *, batch_size: int = 128, seed: int = 0, progress: bool = False) -> DataReport:
    """Reads some batches, in the order and with the draws of `seed`; `progress` shows a bar where stderr is a terminal.

    >>> import pyrovae as pv
    >>> inspected(pv.data.Dataset("zeros", "made", *torch.zeros(3, 5, 6))).num_timed
    1
    """
    limit = max(1, min(_DATAPOINTS, _VALUES // math.prod(data.x_shape)))
    wanted = {split: min(limit, len(data.rows(split))) for split in SPLITS}
    seconds, train, loader = list[float](), list[Tensor](), data.batches("train", batch_size, seed=seed)
    bar = tqdm(total=sum(wanted.values()), desc="looking at data", unit="datapoint", disable=None if progress else True)
    with bar:
        start = perf_counter()
        for batch in loader:
            seconds.append(perf_counter() - start)
            train.append(batch)
            bar.update(len(batch))
            if sum(map(len, train)) >= wanted["train"]:
                break
            start = perf_counter()
        x: dict[Split, Tensor] = {"train": torch.cat(train)}
        for split in SPLITS[1:]:
            rows, num = data.rows(split), wanted[split]  # at even distances, for they may be sorted
            parts = (torch.arange(num, device=rows.device) * len(rows) // num).split(batch_size)
            x[split] = torch.cat([data.finish(split, rows.read(numbers), numbers) for numbers in parts])
            bar.update(num)
    first = min(1, len(seconds) - 1)  # the first batch of several also shuffles and warms up
    per_second = sum(map(len, train[first:])) / sum(seconds[first:])
    return DataReport(data, x, batch_size, len(loader), len(seconds) - first, per_second)


def words(report: DataReport) -> str:
    """What the data set is, where it lies, its values as the model sees them, its classes, and how fast it comes.

    >>> import pyrovae as pv
    >>> print(words(inspected(pv.data.Dataset("zeros", "made", *torch.zeros(3, 5, 6)))))
    data       zeros: made
    x          (6,), vectors of 6 entries
    ...
    """
    data = report.data
    known = data.covariates.get("train", {}).items()
    facts = {
        "data": f"{data.name}: {data.source}",
        "x": f"{data.x_shape}, {_kind(data.x_shape)}",
        "raw to x": _of_function(data.preprocess),
        "augment": "none" if data.augment is None else f"training images are {_of_function(data.augment)}",
        "binarize": data.binarize,
        "covariates": ", ".join(f"{name} {array.dtype} {array.shape[1:] or ''}".strip() for name, array in known),
        "groups": ", ".join(f"{_count(len(of.unique()), 'group')} in {split}" for split, of in data.groups.items()),
        "loading": f"{report.per_second:,.0f} datapoints/s over {_count(report.num_timed, 'batch', 'batches')} of "
        f"{report.batch_size}; {_count(report.num_batches, 'batch', 'batches')} an epoch",
    }
    lines = [("split", "datapoints", "raw", "size", "lies in")]
    for split in SPLITS:
        rows = data.rows(split)
        kind, num_bytes = str(rows.dtype).removeprefix("torch."), math.prod(rows.shape) * rows.dtype.itemsize
        lines.append((split, f"{len(rows):,}", kind, size(num_bytes), rows.place))
    told = "\n".join(f"{name:<10} {text}" for name, text in facts.items() if text)
    return "\n\n".join([told, _table(lines, "<>>><"), _values(report), _classes(data)])


def _kind(x_shape: Sequence[int]) -> str:
    match x_shape:
        case (num,):
            return f"vectors of {_count(num, 'entry', 'entries')}"
        case (channels, height, width):
            return f"{_KINDS.get(channels, f'images of {channels} channels,')} of {height} x {width} pixels"
    return f"arrays of {len(x_shape)} dimensions"


def _of_function(function: Any) -> str:
    """What a function, or an object that is called, says of itself."""
    if isinstance(function, Preprocess):
        return f"{_of_function(function.first)}; then {_of_function(function.normalization)}"
    about = (inspect.getdoc(function) or "").split("\n")[0].rstrip(".")
    return (about or function.__qualname__) if inspect.isroutine(function) else " ".join(str(function).split())


def _values(report: DataReport) -> str:
    lines, warnings = [["x", "datapoints", "min", "mean", "sd", "max", "zeros"]], []
    for split, x in report.x.items():
        finite = x[x.isfinite()].double()
        if missing := x.numel() - len(finite):
            warnings.append(f"{missing:,} of the values of {split} are not finite, and left out here")
        if len(finite):
            low, mean, sd, high = finite.min(), finite.mean(), finite.std(correction=0), finite.max()
            seen, zeros = f"{len(x):,} of {len(report.data.rows(split)):,}", (finite == 0).double().mean()
            lines.append([split, seen, *(f"{number:.4g}" for number in (low, mean, sd, high)), f"{100 * zeros:.1f} %"])
    return "\n".join([_table(lines), *warnings])


def _classes(data: Dataset) -> str:
    labels = {split: data.labels[split].long() for split in SPLITS if split in data.labels}
    num = max([len(data.class_names), *(int(of.max()) + 1 for of in labels.values())])
    if not labels or not num:
        return "no labels"
    counts = {split: of[of >= 0].bincount(minlength=num) for split, of in labels.items()}
    total, about, chosen = torch.stack([*counts.values()]).sum(0), "", [*range(num)]
    names = [*data.class_names, *map(str, range(len(data.class_names), num))]
    if num > _FEW:
        order, low, high = total.argsort(descending=True, stable=True).tolist(), total.min().item(), total.max().item()
        chosen, sizes = [*order[:3], *order[-3:]], f"{low:,}" if low == high else f"{low:,} to {high:,}"
        about = f"{num} classes, of {sizes} datapoints; the largest and the smallest:\n"
    lines = [("class", *counts), *((names[i], *(f"{of[i].item():,}" for of in counts.values())) for i in chosen)]
    missing = sum(int((of < 0).sum()) for of in labels.values())
    return about + _table(lines) + (f"\n{missing:,} datapoints have no label" if missing else "")


def _count(num: int, one: str, many: str = "") -> str:
    return f"{num:,} {one if num == 1 else many or f'{one}s'}"


def _table(lines: Sequence[Sequence[str]], sides: str = "<>>>>>>") -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[f"{text:{side}{width}}" for text, side, width in zip(line, sides, widths)] for line in lines]  # noqa: B905
    return "\n".join("  ".join(line).rstrip() for line in padded)


def catalogue(width: int = 100) -> str:
    """Every data set by its YAML name, what it is, and its keys with their defaults and what else they may be.

    >>> "binarize: dynamic (or static | none)" in catalogue(width=100)
    True
    """
    parts = []
    for name, make in COMPONENTS["dataset"].items():
        parts += [name, f"  {(inspect.getdoc(make) or '').splitlines()[0]}", _keys(signature(make)[1], width)]
    common = {key: Setting(hint, default) for key, (hint, default) in COMMON["dataset"].items()}
    return "\n".join([*parts, f"all of them\n{_keys(common, width)}"])


def _keys(settings: Mapping[str, Setting], width: int) -> str:
    text = ", ".join(f"{name}: {_default(setting)}".replace(" ", "\0") for name, setting in settings.items())
    lines = textwrap.wrap(text, width - 4, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"    {line}" for line in lines).replace("\0", " ")


def _default(setting: Setting) -> str:
    value: Any = setting.default
    if value is inspect.Parameter.empty:
        return "(required)"
    text = yaml.safe_dump([*value] if isinstance(value, tuple) else value, default_flow_style=True)
    literals = [kind for kind in (setting.hint, *get_args(setting.hint)) if get_origin(kind) is Literal]
    others = [str(word) for kind in literals for word in get_args(kind) if word != value]  # that may stand there
    return text.strip().removesuffix("...").strip() + (f" (or {' | '.join(others)})" if others else "")

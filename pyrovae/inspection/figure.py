"""A report as a picture: datapoints, their values, their classes."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ..data import SPLITS
from .mosaic import heat_map, mosaic
from .report import DataReport

_FEW = 20  # classes that have a bar with a name each
_NAMES = {"train": "training", "val": "validation", "test": "test"}


def figure(report: DataReport) -> Figure:
    """Training datapoints above validation ones, as the model sees them; a histogram of x; datapoints of each class."""
    classes = {name: split.class_counts for name, split in report.splits.items() if split.class_counts is not None}
    ratios = [1.1, 1, 1] if classes else [1.1, 1]
    made = Figure(figsize=(5.2 * sum(ratios), 5), layout="constrained")
    first, second, *rest = made.subplots(1, len(ratios), width_ratios=ratios)
    shown = {_NAMES[name]: report.splits[name].x for name in SPLITS[:2]}
    is_images = len(report.data.x_shape) == 3
    scale = (mosaic if is_images else heat_map)(first, shown)
    augmented = ", augmented" if report.data.augment is not None else ""
    first.set_title(f"{report.data.name}: batches as the model sees them{augmented}\n{scale}")
    _histogram(second, shown)
    for axes in rest:
        _class_counts(axes, classes, report.data.class_names)
    return made


def _histogram(axes: Any, shown: dict[str, Tensor]) -> None:
    values = {name: x[x.isfinite()].numpy() for name, x in shown.items()}
    everything = np.concatenate(list(values.values()))
    if len(everything) == 0:
        return
    low, high = everything.min(), everything.max()
    whole = high - low <= 60 and bool((everything == everything.round()).all())
    edges = np.arange(low - 0.5, high + 1) if whole else np.linspace(low, high if high > low else low + 1, 61)
    shares = list[np.ndarray]()
    for style, (name, of) in zip(({"fill": True, "alpha": 0.45}, {"lw": 1.5}), values.items(), strict=True):
        shares.append(np.histogram(of, edges)[0] / max(1, len(of)))
        axes.stairs(shares[-1], edges, label=name, **style)
    axes.set(xlabel="value", ylabel="share of entries", title="values of x")
    there = np.concatenate([share[share > 0] for share in shares])
    most, least = there.max(), there.min()
    if most > 30 * least:  # bars that a linear axis would hide
        axes.set(yscale="log", ylim=(least / 2, 2 * most))
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes)


def _class_counts(axes: Any, classes: dict[Any, Tensor], class_names: tuple[str, ...]) -> None:
    total = torch.stack(list(classes.values())).sum(0)
    num = len(total)
    axes.set(title=f"{num} classes", xlabel="datapoints")
    order = torch.arange(num) if num <= _FEW else total.argsort(descending=True, stable=True)
    below = torch.zeros(num)
    for name, counts in classes.items():
        axes.barh(range(num), counts[order], left=below, height=0.8 if num <= _FEW else 1.0, label=_NAMES[name])
        below = below + counts[order]
    axes.set_ylim(num - 0.5, -0.5)  # the first class on top
    if num <= _FEW:
        names = [*class_names, *map(str, range(len(class_names), num))]
        axes.set_yticks(range(num), [name if len(name) <= 24 else f"{name[:23]}…" for name in names])
    else:
        axes.set_ylabel("class, by size")
    _legend(axes)


def _legend(axes: Any) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=3, frameon=False)  # below: never over bars

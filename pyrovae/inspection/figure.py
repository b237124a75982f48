"""A report as a picture: datapoints, their values, their classes."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torchvision.utils import make_grid

from ..data import SPLITS
from ..training.figures import gap_grey, grey_range, in_colour, range_told, to_unit
from .report import DataReport

_FEW, _BINS = 20, 60  # classes that have a bar with a name each; bars of a histogram
_COLUMNS, _ROWS, _BAND = 10, (6, 3), 0.04  # images a row; rows of each kind; what parts them, of the height
_HEAT_ROWS = (40, 20)
_NAMES = {"train": "training", "val": "validation", "test": "test"}


def figure(report: DataReport) -> Figure:
    """Training datapoints above validation ones, as the model sees them; a histogram of x; datapoints of each class.

    >>> import pyrovae as pv
    >>> report = pv.inspection.inspected(pv.data.Dataset("zeros", "made", *torch.zeros(3, 5, 6)))
    >>> figure(report).axes[1].get_title()
    'values of x'
    """
    classes = {name: split.class_counts for name, split in report.splits.items() if split.class_counts is not None}
    ratios = [1.1, 1, 1] if classes else [1.1, 1]
    made = Figure(figsize=(5.2 * sum(ratios), 5), layout="constrained")
    first, second, *rest = made.subplots(1, len(ratios), width_ratios=ratios)
    shown = {_NAMES[name]: report.splits[name].x for name in SPLITS[:2]}
    scale = (mosaic if len(report.data.x_shape) == 3 else heat_map)(first, shown)
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
    low, high = float(everything.min()), float(everything.max())
    whole = bool((everything == everything.round()).all())
    step = max(1, -(-int(high - low + 1) // _BINS))  # as many whole numbers in each bin: else a comb
    edges = np.arange(low - 0.5, high + step, step) if whole else np.linspace(low, high + (high == low), _BINS + 1)
    shares = list[np.ndarray]()
    for style, (name, of) in zip(({"fill": True, "alpha": 0.45}, {"lw": 1.5}), values.items(), strict=True):
        shares.append(np.histogram(of, edges)[0] / max(1, len(of)))
        axes.stairs(shares[-1], edges, label=name, **style)
    axes.set(xlabel="value", ylabel="share of entries", title="values of x")
    there = np.concatenate([share[share > 0] for share in shares])
    if there.max() > 30 * there.min():  # bars that a linear axis would hide
        axes.set(yscale="log", ylim=(there.min() / 2, 2 * there.max()))
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


def mosaic(axes: Any, shown: dict[str, Tensor]) -> str:
    """Images (B, C, H, W) of two kinds, one above the other; returns what black and white are."""
    images = [x[: _COLUMNS * rows].float() for x, rows in zip(shown.values(), _ROWS, strict=True)]
    limits = grey_range(torch.cat(images).nan_to_num(0))
    grids = [
        make_grid(to_unit(in_colour(x).nan_to_num(0), limits), nrow=_COLUMNS, padding=1, pad_value=gap_grey(limits))
        for x in images
    ]
    width = max(grid.shape[2] for grid in grids)
    top, bottom = (torch.nn.functional.pad(grid, (0, width - grid.shape[2]), value=1.0) for grid in grids)
    band = torch.ones(3, max(1, round(_BAND * top.shape[1])), width)
    axes.imshow(torch.cat([top, band, bottom], 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    _label(axes, [top.shape[1] / 2, top.shape[1] + band.shape[1] + bottom.shape[1] / 2], list(shown))
    told = [] if images[0].shape[1] in (1, 3) else [f"mean of {images[0].shape[1]} channels"]
    return ", ".join([*told, range_told(limits) or "black 0, white 1"])


def heat_map(axes: Any, shown: dict[str, Tensor]) -> str:
    """Datapoints (B, *x_shape) of two kinds, one a row; returns what is shown."""
    rows = [x[:num].float().flatten(1) for x, num in zip(shown.values(), _HEAT_ROWS, strict=True)]
    values = torch.cat(rows).numpy()
    low, high = grey_range(torch.cat(rows).nan_to_num(0))
    style: dict[str, Any] = {"cmap": "RdBu_r" if low < 0 else "viridis", "interpolation": "nearest", "aspect": "auto"}
    picture = axes.imshow(values, vmin=low, vmax=high, **style)
    axes.axhline(len(rows[0]) - 0.5, color="black", linewidth=3)
    axes.set_xlabel("entry of x")
    _label(axes, [len(rows[0]) / 2, len(rows[0]) + len(rows[1]) / 2], list(shown))
    beyond = "both" if low < 0 else "max"
    axes.figure.colorbar(picture, ax=axes, extend=beyond if np.nanmax(np.abs(values)) > high else "neither")
    return "a datapoint a row"


def _label(axes: Any, places: list[float], names: list[str]) -> None:
    axes.set_yticks(places, names, rotation=90, va="center")
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    if not axes.get_xlabel():
        axes.set_xticks([])

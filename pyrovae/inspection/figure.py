"""A report as a picture: datapoints, their values, their classes."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torchvision.utils import make_grid

from ..training.figures import gap_grey, grey_range, in_colour, range_told, to_unit
from .report import DataReport

_BINS = 60  # of a histogram
_COLUMNS, _ROWS, _BAND = 10, (6, 3), 0.04  # images a row; rows of each kind; what parts them, of the height
_HEAT_ROWS = (40, 20)


def figure(report: DataReport) -> Figure:
    """Training datapoints above validation ones, as the model sees them; and a histogram of x.

    >>> import pyrovae as pv
    >>> report = pv.inspection.inspected(pv.data.Dataset("zeros", "made", *torch.zeros(3, 5, 6)))
    >>> figure(report).axes[1].get_title()
    'values of x'
    """
    made = Figure(figsize=(11, 5), layout="constrained")
    first, second = made.subplots(1, 2)
    shown = {"training": report.x["train"], "validation": report.x["val"]}
    scale = (mosaic if len(report.data.x_shape) == 3 else heat_map)(first, shown)
    augmented = ", augmented" if report.data.augment is not None else ""
    first.set_title(f"{report.data.name}: batches as the model sees them{augmented}\n{scale}")
    _histogram(second, {name: x[x.isfinite()].numpy() for name, x in shown.items()})
    return made


def _histogram(axes: Any, values: dict[str, np.ndarray]) -> None:
    everything = np.concatenate([*values.values()])
    if len(everything) == 0:
        return
    low, high = float(everything.min()), float(everything.max())
    whole = bool((everything == everything.round()).all())
    step = max(1, -(-int(high - low + 1) // _BINS))  # as many whole numbers in each bin: else a comb
    edges = np.arange(low - 0.5, high + step, step) if whole else np.linspace(low, high + (high == low), _BINS + 1)
    shares = [np.histogram(of, edges)[0] / max(1, len(of)) for of in values.values()]
    for name, share, style in zip(values, shares, ({"fill": True, "alpha": 0.45}, {"lw": 1.5}), strict=True):
        axes.stairs(share, edges, label=name, **style)
    axes.set(xlabel="value", ylabel="share of entries", title="values of x")
    there = np.concatenate([share[share > 0] for share in shares])
    if there.max() > 30 * there.min():  # bars that a linear axis would hide
        axes.set(yscale="log", ylim=(there.min() / 2, 2 * there.max()))
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=2, frameon=False)  # below: never over bars


def mosaic(axes: Any, shown: dict[str, Tensor]) -> str:
    """Images (B, C, H, W) of two kinds, one above the other; returns what black and white are."""
    images = [x[: _COLUMNS * rows].float() for x, rows in zip(shown.values(), _ROWS, strict=True)]
    limits = grey_range(torch.cat(images).nan_to_num(0))
    colours = [to_unit(in_colour(x).nan_to_num(0), limits) for x in images]
    grids = [make_grid(x, nrow=_COLUMNS, padding=1, pad_value=gap_grey(limits)) for x in colours]
    width = max(grid.shape[2] for grid in grids)
    top, bottom = (torch.nn.functional.pad(grid, (0, width - grid.shape[2]), value=1.0) for grid in grids)
    band = torch.ones(3, max(1, round(_BAND * top.shape[1])), width)
    axes.imshow(torch.cat([top, band, bottom], 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    _label(axes, [top.shape[1] / 2, top.shape[1] + band.shape[1] + bottom.shape[1] / 2], shown)
    axes.set_xticks([])
    told = "" if images[0].shape[1] in (1, 3) else f"mean of {images[0].shape[1]} channels, "
    return told + (range_told(limits) or "black 0, white 1")


def heat_map(axes: Any, shown: dict[str, Tensor]) -> str:
    """Datapoints (B, *x_shape) of two kinds, one a row; returns what is shown."""
    rows = [x[:num].float().flatten(1) for x, num in zip(shown.values(), _HEAT_ROWS, strict=True)]
    values = torch.cat(rows)
    low, high = grey_range(values.nan_to_num(0))
    colours = "RdBu_r" if low < 0 else "viridis"
    picture = axes.imshow(values.numpy(), vmin=low, vmax=high, cmap=colours, interpolation="nearest", aspect="auto")
    axes.axhline(len(rows[0]) - 0.5, color="black", linewidth=3)
    axes.set_xlabel("entry of x")
    _label(axes, [len(rows[0]) / 2, len(rows[0]) + len(rows[1]) / 2], shown)
    beyond = ("both" if low < 0 else "max") if (values.abs() > high).any() else "neither"
    axes.figure.colorbar(picture, ax=axes, extend=beyond)
    return "a datapoint a row"


def _label(axes: Any, places: list[float], shown: dict[str, Tensor]) -> None:
    axes.set_yticks(places, [*shown], rotation=90, va="center")
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)

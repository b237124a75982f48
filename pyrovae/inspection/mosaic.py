"""Datapoints side by side: images as images, all else as rows of a heat map."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid

from ..training.figures import gap_grey, grey_range, in_colour, range_told, to_unit

_COLUMNS, _ROWS, _BAND = 10, (6, 3), 0.04  # images a row; rows of each kind; what parts them, of the height
_HEAT_ROWS = (40, 20)


def mosaic(axes: Any, shown: dict[str, Tensor]) -> str:
    """Images (B, C, H, W) of two kinds, one above the other; returns what black and white are."""
    images = [x[: _COLUMNS * rows].float() for x, rows in zip(shown.values(), _ROWS, strict=True)]
    limits = grey_range(torch.cat(images).nan_to_num(0))
    grids = [
        make_grid(to_unit(in_colour(x).nan_to_num(0), limits), nrow=_COLUMNS, padding=1, pad_value=gap_grey(limits))
        for x in images
    ]
    width = max(grid.shape[2] for grid in grids)
    grids = [torch.nn.functional.pad(grid, (0, width - grid.shape[2]), value=1.0) for grid in grids]
    band = torch.ones(3, max(1, round(_BAND * grids[0].shape[1])), width)
    axes.imshow(torch.cat([grids[0], band, grids[1]], 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    heights = [grids[0].shape[1], band.shape[1], grids[1].shape[1]]
    _label(axes, [heights[0] / 2, heights[0] + heights[1] + heights[2] / 2], list(shown))
    told = [] if images[0].shape[1] in (1, 3) else [f"mean of {images[0].shape[1]} channels"]
    return ", ".join([*told, range_told(limits) or "black 0, white 1"])


def heat_map(axes: Any, shown: dict[str, Tensor]) -> str:
    """Datapoints (B, *x_shape) of two kinds, one a row; returns what is shown."""
    rows = [x[:num].float().flatten(1) for x, num in zip(shown.values(), _HEAT_ROWS, strict=True)]
    values = torch.cat(rows).numpy()
    low, high = grey_range(torch.cat(rows).nan_to_num(0))
    picture = axes.imshow(
        values, aspect="auto", vmin=low, vmax=high, cmap="RdBu_r" if low < 0 else "viridis", interpolation="nearest"
    )
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

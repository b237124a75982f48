"""Figures; each takes arrays and returns a matplotlib Figure, without pyplot's global state."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torchvision.utils import make_grid

from .heat_maps import heat_maps


def grey_range(images: Tensor) -> tuple[float, float]:
    """The values that are drawn black and white.

    Of images in [0, 1] these; of whitened or centred ones, which lie on both sides of zero, -m and m, so that zero is
    mid grey; of larger ones, counts say, 0 and m. m leaves out the one in a hundred most extreme entries.
    """
    values = images.detach().float().cpu().numpy()
    low, high = np.quantile(values, (0.01, 0.99)).tolist()
    if low < -0.25 * max(high, 0):  # more than what a decoder of values in [0, 1] undershoots
        m = float(np.quantile(np.abs(values), 0.99))
        return -m, m
    return 0.0, max(high, 1.0)


def to_unit(images: Tensor, limits: tuple[float, float]) -> Tensor:
    """Images on the CPU with limits brought to 0 and 1, and what lies beyond cut off."""
    low, high = limits
    return ((images.detach().float().cpu() - low) / max(high - low, 1e-12)).clamp(0, 1)


def range_told(limits: tuple[float, float]) -> str:
    """What a figure says of its grey scale; nothing, where it is that of the data."""
    return "" if limits == (0.0, 1.0) else f"black {limits[0]:.2g}, white {limits[1]:.2g}"


def in_colour(images: Tensor) -> Tensor:
    """Images (..., C, H, W) of one channel or three; the mean over channels of any others."""
    return images if images.shape[-3] in (1, 3) else images.mean(-3, keepdim=True)


def gap_grey(limits: tuple[float, float]) -> float:
    """What is drawn between images: mid grey, but white where that would look like an image of zeros."""
    return 1.0 if limits[0] < 0 else 0.5


def _show(axes: object, images: Tensor, columns: int, limits: tuple[float, float]) -> None:
    grid = make_grid(to_unit(in_colour(images), limits), nrow=columns, padding=1, pad_value=gap_grey(limits))
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")  # type: ignore[attr-defined]


def datapoint_rows(rows: Mapping[str, Tensor], columns: int = 12) -> Figure:
    """`image_rows` of images, `heat_maps` of any other datapoints."""
    return image_rows(rows, columns) if next(iter(rows.values())).dim() == 4 else heat_maps(rows)


def datapoint_grid(x: Tensor, columns: int = 8, like: Tensor | None = None) -> Figure:
    """`image_grid` of images, a heat map of any other datapoints."""
    return image_grid(x, columns, like) if x.dim() == 4 else heat_maps({"samples": x}, len(x), like)


def image_rows(rows: Mapping[str, Tensor], columns: int = 12) -> Figure:
    """One labelled row of images for each item, (B, C, H, W), all in the grey scale of the first row's."""
    limits = grey_range(next(iter(rows.values()))[:columns])
    told = range_told(limits)
    figure = Figure(figsize=(8, 0.75 * len(rows) + (0.35 if told else 0.1)), layout="constrained")
    for axes, (label, images) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows.items(), strict=True):
        _show(axes, images[:columns], columns, limits)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if told:
        figure.supxlabel(told, fontsize=8)
    return figure


def image_grid(images: Tensor, columns: int = 8, like: Tensor | None = None) -> Figure:
    """Images (B, C, H, W) in rows of `columns`, in the grey scale of `like`, data say; by default in their own."""
    limits = grey_range(images if like is None else like)
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    _show(axes, images, columns, limits)
    axes.set_axis_off()
    if told := range_told(limits):
        figure.supxlabel(told, fontsize=8)
    return figure


def trajectory(elbo: Sequence[float]) -> Figure:
    """The mean ELBO at λ₀ ... λ_K."""
    figure = Figure(figsize=(4.5, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(len(elbo)), elbo, marker="o", markersize=3)
    axes.set(xlabel="inner step k", ylabel="ELBO at λ_k (nats)", title=f"refinement: {elbo[-1] - elbo[0]:+.2f} nats")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    return figure


def kl_bars(kl: Tensor) -> Figure:
    """KL to the prior of each latent dimension, in nats, largest first."""
    values = np.sort(kl.detach().float().cpu().numpy())[::-1]
    figure = Figure(figsize=(4.5, 3), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(values)), values)
    axes.set(xlabel="latent dimension, sorted", ylabel="KL to the prior (nats)", title=f"sum {values.sum():.1f} nats")
    return figure

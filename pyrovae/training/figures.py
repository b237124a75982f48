"""Figures; each takes arrays and returns a matplotlib Figure, without pyplot's global state."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torchvision.utils import make_grid


def _show(axes: object, images: Tensor, columns: int) -> None:
    grid = make_grid(images.detach().float().cpu().clamp(0, 1), nrow=columns, padding=1, pad_value=0.5)
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")  # type: ignore[attr-defined]


def image_rows(rows: Mapping[str, Tensor], columns: int = 12) -> Figure:
    """One labelled row of images for each item, (B, C, H, W) with values in [0, 1]."""
    figure = Figure(figsize=(8, 0.75 * len(rows) + 0.1), layout="constrained")
    for axes, (label, images) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows.items(), strict=True):
        _show(axes, images[:columns], columns)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def image_grid(images: Tensor, columns: int = 8) -> Figure:
    """Images (B, C, H, W) in rows of `columns`."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    _show(axes, images, columns)
    axes.set_axis_off()
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

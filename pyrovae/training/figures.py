"""Figures; each takes arrays and returns a matplotlib Figure, without pyplot's global state."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyro
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution, constraints, kl_divergence
from torchvision.utils import make_grid

from ..families import Family
from ..inference import AnalyticELBO, scored_sites


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
    """Images on the CPU with limits brought to 0 and 1, and what lies beyond cut off.

    >>> to_unit(torch.tensor([-3.0, 0.0, 9.0]), (-2.0, 2.0))
    tensor([0.0000, 0.5000, 1.0000])
    """
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


def _show(axes: Any, images: Tensor, columns: int, limits: tuple[float, float]) -> None:
    grid = make_grid(to_unit(in_colour(images), limits), nrow=columns, padding=1, pad_value=gap_grey(limits))
    axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
    if told := range_told(limits):
        axes.figure.supxlabel(told, fontsize=8)


def image_rows(rows: Mapping[str, Tensor], columns: int = 12) -> Figure:
    """One labelled row of images for each item, (B, C, H, W), all in the grey scale of the first row's.

    >>> image_rows({"input": torch.rand(5, 3, 8, 8)}).axes[0].get_ylabel()
    'input'
    """
    limits = grey_range(next(iter(rows.values()))[:columns])
    figure = Figure(figsize=(8, 0.75 * len(rows) + (0.35 if range_told(limits) else 0.1)), layout="constrained")
    for axes, (label, images) in zip(figure.subplots(len(rows), squeeze=False)[:, 0], rows.items(), strict=True):
        _show(axes, images[:columns], columns, limits)
        axes.set_ylabel(label, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def column_names(axes: Any, names: Sequence[str], width: int, top: bool = False) -> None:
    """Writes a name below, or above, each column of a row of `image_rows` whose images are `width` pixels wide."""
    axes.set_xticks([1 + width / 2 + k * (width + 1) for k in range(len(names))], names)
    axes.tick_params(length=0, labelsize=8, labeltop=top, labelbottom=not top)


def image_grid(images: Tensor, columns: int = 8, like: Tensor | None = None) -> Figure:
    """Images (B, C, H, W) in rows of `columns`, in the grey scale of `like`, data say; by default in their own.

    >>> image_grid(torch.rand(64, 1, 8, 8)).get_size_inches()
    array([4., 4.])
    """
    axes: Any = Figure(figsize=(4, 4), layout="constrained").subplots()
    _show(axes, images, columns, grey_range(images if like is None else like))
    axes.set_axis_off()
    return axes.figure


def heat_maps(panels: Mapping[str, Tensor], num: int = 32, like: Tensor | None = None) -> Figure:
    """Vectors (B, ...) by title side by side, the first `num` of each.

    All in the colour scale of `like`, by default the first panel; a hundredth of its entries at either end saturates.

    >>> heat_maps({"input": torch.rand(40, 30), "rates": torch.rand(40, 30)}).axes[1].get_title()
    'rates'
    """
    shown = {title: x[:num].detach().float().flatten(1).cpu().numpy() for title, x in panels.items()}
    values = next(iter(shown.values())) if like is None else like.detach().float().cpu().numpy()
    low, high = np.quantile(values[np.isfinite(values)], (0.01, 0.99)).tolist()
    scale = {"vmin": min(low, 0.0), "vmax": high}  # counts and rates from zero on
    figure = Figure(figsize=(1.2 + 2.6 * len(shown), 3.2), layout="constrained")
    row = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (title, x) in zip(row, shown.items(), strict=True):
        image = axes.imshow(x, aspect="auto", interpolation="nearest", cmap="viridis", **scale)
        axes.set(title=title, xlabel="entry")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    row[0].set_ylabel("datapoint")
    row[0].yaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.colorbar(image, ax=row, extend="both" if low < 0 else "max", pad=0.02)
    return figure


def datapoint_rows(rows: Mapping[str, Tensor], columns: int = 12) -> Figure:
    """`image_rows` of images, `heat_maps` of any other datapoints."""
    return image_rows(rows, columns) if next(iter(rows.values())).dim() == 4 else heat_maps(rows)


def datapoint_grid(x: Tensor, columns: int = 8, like: Tensor | None = None) -> Figure:
    """`image_grid` of images, a heat map of any other datapoints."""
    return image_grid(x, columns, like) if x.dim() == 4 else heat_maps({"samples": x}, len(x), like)


def trajectory(elbo: Sequence[float]) -> Figure:
    """The mean ELBO at λ₀ ... λ_K.

    >>> trajectory([-90.0, -88.0, -87.5]).axes[0].get_title()
    'refinement: +2.50 nats'
    """
    axes: Any = Figure(figsize=(4.5, 3), layout="constrained").subplots()
    axes.plot(elbo, marker="o", markersize=3)
    axes.set(xlabel="inner step k", ylabel="ELBO at λ_k (nats)", title=f"refinement: {elbo[-1] - elbo[0]:+.2f} nats")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    return axes.figure


def kl_bars(kl: Tensor, kl_init: Tensor | None = None) -> Figure:
    """KL to the prior of each latent dimension, in nats, largest first; beside it that at λ₀, if given.

    >>> kl_bars(torch.tensor([0.5, 2.0])).axes[0].get_title()
    'sum 2.5 nats'
    """
    axes: Any = Figure(figsize=(4.5 if kl_init is None else 7, 3), layout="constrained").subplots()
    order, places = kl.argsort(descending=True).cpu(), np.arange(len(kl))
    values = kl.detach().float().cpu()[order].numpy()
    if kl_init is None:
        axes.bar(places, values)
    else:
        init = kl_init.detach().float().cpu()[order].numpy()
        axes.bar(places - 0.2, init, 0.4, color="C1", label=f"λ₀, sum {init.sum():.1f} nats")
        axes.bar(places + 0.2, values, 0.4, color="C0", label=f"λ_K, sum {values.sum():.1f} nats")
        axes.legend(fontsize=8)
    axes.set(xlabel="latent dimension, sorted", ylabel="KL to the prior (nats)", title=f"sum {values.sum():.1f} nats")
    return axes.figure


IN_USE = 0.1  # nats of KL, above which a latent dimension tells something
NUM_DRAWS = 8  # of the layers above
NUM_MOMENT_DRAWS = 256  # where q has no moments in closed form


def kl_per_dim(model: Callable, family: Family, x: Tensor, params: Tensor) -> Tensor | None:
    """KL(q ‖ p) of each latent dimension, batch mean, (D,), the model's latent sites side by side.

    Exact where both sides are independent entries with a closed form. Elsewhere it is that of the normals that share
    mean and variance with q and p: a family's correlations and a mixture's modes do not show in it. Where q has no
    moments in closed form, a flow, they are those of draws. Latents that are not real, and not of independent entries
    with a closed form, are left out; None if none is left. Layers below the top are averaged over draws of those above.

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((1, 6, 5), 3), pv.DiagonalNormal(3)
    >>> kl_per_dim(model, family, torch.zeros(5, 1, 6, 5), params=torch.ones(5, 6)).shape
    torch.Size([3])
    """
    with torch.no_grad(), pyro.validation_enabled(False):
        draws = 1 if len(getattr(model, "sites", ())) == 1 else NUM_DRAWS
        objective = AnalyticELBO(num_particles=draws)  # which asks q for no density
        model_trace, guide_trace = objective.traces(model, lambda x: family.sample(params), x)
    sites: Any = [(guide_trace.nodes[n], s) for n, s in scored_sites(model_trace) if not s["is_observed"]]
    found = [(_entries(q["fn"], p["fn"]), p["fn"].event_shape.numel()) for q, p in sites]  # (..., B, *event_shape)
    kls = [kl.reshape(-1, size).mean(0) for kl, size in found if kl is not None]
    return torch.cat(kls) if kls else None


def _entries(q: Any, p: Any) -> Tensor | None:
    if isinstance(q, Independent) and isinstance(p, Independent) and not q.base_dist.event_shape:
        try:
            return kl_divergence(q.base_dist, p.base_dist)
        except NotImplementedError:
            pass
    support = p.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if isinstance(q, TransformedDistribution) and support is not constraints.real:
        return None  # positive, or on a simplex: no place for normals
    try:
        mean, variance = p.mean, p.variance
    except NotImplementedError:
        return None
    try:
        q_mean, q_variance = q.mean, q.variance
    except NotImplementedError:
        draws = q.sample((NUM_MOMENT_DRAWS,))
        q_mean, q_variance = draws.mean(0), draws.var(0)
    ratio = q_variance / variance
    return 0.5 * (ratio + (q_mean - mean).square() / variance - 1 - ratio.log())

"""Datapoints that are no images, as pictures: a row for each, a column for each entry."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor


def heat_maps(panels: Mapping[str, Tensor], num: int = 32, like: Tensor | None = None) -> Figure:
    """Vectors (B, ...) side by side, the first `num` of each panel, all in the colour scale of `like`.

    Args:
        panels: Vectors by title.
        num: Most rows.
        like: By default the first panel; a hundredth of its entries at either end may saturate.
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

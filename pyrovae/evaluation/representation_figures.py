"""Figures of the representation."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from .traversals import most_active

MAX_CLASSES = 20  # in a legend


def kl_figure(kl: Tensor, kl_init: Tensor | None = None) -> Figure:
    """KL to the prior of each latent dimension (D,) at λ_K, and at λ₀ if given, in nats; largest at λ_K first."""
    values = kl.detach().float().cpu().numpy()
    order, places = np.argsort(values)[::-1], np.arange(len(values))
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    if kl_init is None:
        axes.bar(places, values[order], 0.8, label=f"sum {values.sum():.1f} nats")
    else:
        init = kl_init.detach().float().cpu().numpy()
        axes.bar(places - 0.2, init[order], 0.4, color="C1", label=f"λ₀, sum {init.sum():.1f} nats")
        axes.bar(places + 0.2, values[order], 0.4, color="C0", label=f"λ_K, sum {values.sum():.1f} nats")
    if len(values) <= 32:
        axes.set_xticks(places, [str(dim) for dim in order])
    axes.set(
        xlabel="latent dimension, sorted", ylabel="KL to the prior (nats)", title="What each latent dimension tells"
    )
    axes.legend(fontsize=8)
    return figure


def aggregate_posterior_figure(means: Tensor, labels: Tensor | None, class_names: Sequence[str]) -> Figure | None:
    """Posterior means (N, D) in their two most active dimensions, coloured by class; None for one dimension."""
    if means.shape[1] < 2:
        return None
    first, second = most_active(means, 2)
    points = means[:, [first, second]].float().cpu().numpy()
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=6, alpha=0.6)
    else:
        classes = labels.cpu().numpy()
        present = np.unique(classes)
        for place, k in enumerate(present):
            name = class_names[k] if k < len(class_names) else str(k)
            colour = colormaps["tab20" if len(present) > 10 else "tab10"](place % 20)
            x, y = points[classes == k].T
            axes.scatter(x, y, s=6, alpha=0.6, color=colour, label=name)
        if len(present) <= MAX_CLASSES:
            axes.legend(fontsize=8, markerscale=2, title="class")
    axes.set(
        xlabel=f"E[z_{first} | x]", ylabel=f"E[z_{second} | x]", title="Posterior means, two most active dimensions"
    )
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.3)
    return figure

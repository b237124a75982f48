"""Which images are hard to infer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from ..training.figures import grey_range, range_told, to_unit
from .draws import reconstruct
from .findings import Findings, estimate
from .subject import Subject


def hardness(subject: Subject, gap: Tensor, *, num_images: int = 8) -> Findings:
    """The inference gap of each image against its class and its ink, and the images where it is widest and narrowest.

    Ink is the mean of x over pixels. Correlations are Pearson's and, of ranks, Spearman's.

    Args:
        subject: What was inferred.
        gap: log p(x) - L[λ_K] of each datapoint (N,), in nats.
        num_images: Of each kind in the gallery.

    Raises:
        ValueError: Gaps that are not one a datapoint.
    """
    if gap.shape != (len(subject.x),):
        raise ValueError(f"gap must be ({len(subject.x)},), one a datapoint, got {tuple(gap.shape)}")
    ink = subject.x.flatten(1).mean(1)
    classes = gap_by_class(subject, gap)
    correlation = _correlation(ink, gap)
    by_class = {name: {**estimate(values), "n": len(values)} for name, values in classes.items()}
    numbers = {"by_class": by_class, "correlation_with_ink": correlation}
    figures = {"hardness": _hardness_figure(classes, ink, gap, correlation)}
    if subject.x.dim() == 4 and subject.x.shape[1] in (1, 3) and hasattr(subject.model, "decode"):
        figures["gallery"] = _gallery(subject, gap, num_images)
    return Findings(numbers={"hardness": numbers}, values={"ink": ink}, figures=figures)


def gap_by_class(subject: Subject, gap: Tensor) -> dict[str, Tensor]:
    """The gaps of each class that occurs, by its name; none where there are no labels."""
    if subject.labels is None:
        return {}
    labels, names = subject.labels.to(gap.device), subject.class_names
    found = {}
    for label in labels.unique().tolist():
        found[names[label] if label < len(names) else str(label)] = gap[labels == label]
    return found


def _correlation(ink: Tensor, gap: Tensor) -> dict[str, float | None]:
    a, b = ink.double().cpu().numpy(), gap.double().cpu().numpy()
    finite = np.isfinite(b)
    a, b = a[finite], b[finite]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return {"pearson": None, "pearson_p": None, "spearman": None, "spearman_p": None}
    (r, p), (rank_r, rank_p) = pearsonr(a, b), spearmanr(a, b)
    return {"pearson": float(r), "pearson_p": float(p), "spearman": float(rank_r), "spearman_p": float(rank_p)}


def _hardness_figure(classes: Mapping[str, Tensor], ink: Tensor, gap: Tensor, correlation: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(8 if classes else 4.5, 3.6), layout="constrained")
    panels = figure.subplots(1, 2 if classes else 1, sharey=True, squeeze=False)[0]
    panels[0].set_ylabel("inference gap (nats a datapoint)")
    if classes:
        panels[0].boxplot([values.double().cpu().numpy() for values in classes.values()], showfliers=False)
        panels[0].set_xticks(range(1, len(classes) + 1), list(classes), rotation=0 if len(classes) <= 12 else 90)
        panels[0].set(xlabel="class", title="Which classes are hard")
    axes = panels[-1]
    axes.plot(ink.double().cpu().numpy(), gap.double().cpu().numpy(), ".", markersize=3, alpha=0.5)
    told = "" if correlation["spearman"] is None else f": Spearman {correlation['spearman']:.2f}"
    axes.set(xlabel="ink (mean of x over its entries)", title=f"Ink and gap{told}")
    for one in panels:
        one.grid(alpha=0.3)
    return figure


def _gallery(subject: Subject, gap: Tensor, num_images: int) -> Figure:
    """The hardest images and the easiest, each over its reconstructions, the gap above."""
    order = gap.nan_to_num(torch.inf).argsort(descending=True).to(subject.x.device)
    count = min(num_images, len(order) // 2) or 1
    rows = torch.cat([order[:count], order[len(order) - count :]])
    images = {"input": subject.x[rows], "at λ₀": reconstruct(subject.model, subject.family, subject.init[rows])}
    if subject.refines:
        images["at λ_K"] = reconstruct(subject.model, subject.family, subject.params[rows])
    limits = grey_range(images["input"])
    figure = Figure(figsize=(8, 0.5 * len(images) + 0.65), layout="constrained")
    panels = figure.subplots(len(images), len(rows), squeeze=False)
    for line, (label, pictures) in zip(panels, images.items(), strict=True):
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
        for axes, picture in zip(line, to_unit(pictures, limits).permute(0, 2, 3, 1).numpy(), strict=True):
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
    for axes, value in zip(panels[0], gap[rows].tolist(), strict=True):
        axes.set_title(f"{value:.1f}", fontsize=8)
    figure.suptitle(f"Hardest {count} images, then easiest {count}; above each its inference gap in nats", fontsize=10)
    figure.supxlabel(range_told(limits), fontsize=8)
    return figure


def occlusion_curve(gap_by_fraction: Mapping[float, Tensor], name: str = "inference gap") -> Figure:
    """The gap against how much of each image is hidden, with standard errors.

    Args:
        gap_by_fraction: Gaps (N,) in nats, by the hidden fraction of the area.
        name: What they are.
    """
    fractions = sorted(gap_by_fraction)
    means = [estimate(gap_by_fraction[fraction]) for fraction in fractions]
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    values, errors = [m["mean"] for m in means], [m["se"] for m in means]
    axes.errorbar(fractions, values, errors, fmt="o-", markersize=4, capsize=3)
    axes.set(xlabel="share of the image that is hidden", ylabel=f"{name} (nats a datapoint)")
    axes.set_title("How inference fares as more of the image is hidden")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.3)
    return figure

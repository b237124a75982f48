"""Which images are hard to infer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from ..models import can_decode
from ..training.figures import column_names, image_rows
from .subject import Measurement, Subject, panels, reconstruct
from .table import number

NUM_EXTREME = 6  # hardest classes, and easiest, in the figure where there are more than twice as many
LONGEST = 20  # characters of a class's name there


def hardness(subject: Subject, gap: Tensor, *, num_images: int = 8) -> Measurement:
    """The inference gap of each datapoint against its class and its amount, and where it is widest and narrowest.

    The amount is what the data have, images ink, counts a rate (`Subject.amount`). Correlations are Pearson's and, of
    ranks, Spearman's. A gap that is not finite is left out. A ValueError, if `gap`, log p(x) - L[λ_K] in nats, is not
    one a datapoint, (N,).
    """
    if gap.shape != (len(subject.x),):
        raise ValueError(f"gap must be ({len(subject.x)},), one a datapoint, got {tuple(gap.shape)}")
    amount, finite, classes, by_class = subject.amount(), gap.isfinite(), dict[str, Any](), dict[str, Any]()
    if subject.labels is not None:
        labels, names = subject.labels.to(gap.device), subject.class_names
        for label in labels[finite].unique().tolist():
            name, rows = names[label] if label < len(names) else str(label), (labels == label) & finite
            classes[name] = gap[rows].double().cpu().numpy()
            by_class[name] = {**subject.estimate(gap[rows], rows.cpu()), "n": int(rows.sum())}
    a, b = (values[finite].double().cpu().numpy() for values in (amount.values, gap))
    correlation: dict[str, Any] = dict.fromkeys(("pearson", "pearson_p", "spearman", "spearman_p"))
    if len(a) > 2 and np.ptp(a) > 0 and np.ptp(b) > 0:
        found = (*pearsonr(a, b), *spearmanr(a, b))
        correlation = dict(zip(correlation, map(float, found), strict=True))
    numbers = {"by_class": by_class, "amount": amount.name, "correlation": correlation}
    measured = Measurement({"hardness": numbers}, {amount.name: amount.values})
    label = f"{amount.name} ({amount.formula} over {amount.entry}s)"
    title = f"Gap and {amount.name}: Spearman {number(correlation['spearman'])}"
    measured.draw("hardness", _hardness_figure, classes, a, b, label, title)
    if subject.x.dim() == 4 and subject.x.shape[1] in (1, 3) and can_decode(subject.model):
        measured.draw("gallery", _gallery, subject, gap, num_images)
    return measured


def _hardness_figure(classes: Mapping[str, Any], amount: Any, gap: Any, label: str, title: str) -> Figure:
    order = sorted(classes, key=lambda name: np.median(classes[name]), reverse=True)
    left_out = max(0, len(order) - 2 * NUM_EXTREME)
    shown = order[:NUM_EXTREME] + order[NUM_EXTREME + left_out :]
    height = max(3.6, 1.2 + 0.28 * len(shown))
    figure, (*boxes, axes) = panels(8.5, height, 2) if classes else panels(4.5, height)
    for box in boxes:
        box.boxplot([classes[name] for name in shown], orientation="horizontal", sym="")
        names = [name if len(name) <= LONGEST else f"{name[:9]}…{name[10 - LONGEST :]}" for name in shown]
        box.set_yticks(range(1, len(shown) + 1), names, fontsize=8)
        box.invert_yaxis()  # the hardest is on top
        told = f"Hardest and easiest classes ({left_out} between)" if left_out else "Which classes are hard"
        box.set_title(told, fontsize=10)
        box.set_xlabel("inference gap (nats a datapoint)")
    axes.plot(amount, gap, ".", markersize=3, alpha=0.5)
    axes.set(xlabel=label, ylabel="inference gap (nats a datapoint)")
    axes.set_title(title, fontsize=10)
    return figure


def _gallery(subject: Subject, gap: Tensor, num_images: int) -> Figure:
    """The hardest images and the easiest, each over its reconstructions, the gap above."""
    order = gap.nan_to_num(float("inf")).argsort(descending=True).to(subject.x.device)
    count = min(num_images, len(order) // 2) or 1
    rows = torch.cat([order[:count], order[len(order) - count :]])
    images = {"input": subject.x[rows], "at λ₀": reconstruct(subject.model, subject.family, subject.init[rows])}
    if subject.refines:
        images["at λ_K"] = reconstruct(subject.model, subject.family, subject.params[rows])
    figure = image_rows(images, len(rows))
    column_names(figure.axes[0], [f"{value:.1f}" for value in gap[rows].tolist()], subject.x.shape[-1], top=True)
    figure.set_figheight(0.5 * len(images) + 0.8)
    figure.suptitle(f"Hardest {count} images, then easiest {count}; above each its inference gap in nats", fontsize=10)
    return figure

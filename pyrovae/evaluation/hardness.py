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
from .measurement import Measurement, estimate
from .subject import Subject, reconstruct

NUM_EXTREME = 6  # hardest classes, and easiest, in the figure where there are more than twice as many
LONGEST = 20  # characters of a class's name there


def hardness(subject: Subject, gap: Tensor, *, num_images: int = 8) -> Measurement:
    """The inference gap of each datapoint against its class and its amount, and where it is widest and narrowest.

    The amount is what the data have: images ink, how far pixels are from the background on average; counts a rate
    (`Subject.words`). Correlations are Pearson's and, of ranks, Spearman's. A gap that is not finite is left out.

    Args:
        subject: What was inferred.
        gap: log p(x) - L[λ_K] of each datapoint (N,), in nats.
        num_images: Of each kind in the gallery.

    Raises:
        ValueError: Gaps that are not one a datapoint.

    >>> import torch
    >>> import pyrovae as pv
    >>> guide = pv.AmortizedGuide(pv.DiagonalNormal(2), pv.nets.MLP((6,), (4,)))
    >>> x = torch.arange(48.0).view(8, 6)
    >>> subject = Subject.of("test", pv.models.mlp((6,), z_dim=2), guide, x)
    >>> found = hardness(subject, torch.arange(8.0)).numbers["hardness"]
    >>> found["amount"], round(found["correlation"]["spearman"], 6)
    ('rate', 1.0)
    """
    if gap.shape != (len(subject.x),):
        raise ValueError(f"gap must be ({len(subject.x)},), one a datapoint, got {tuple(gap.shape)}")
    amount, words, finite = subject.amount(), subject.words, gap.isfinite()
    classes = gap_by_class(subject, gap)
    correlation = _correlation(amount[finite], gap[finite])
    by_class = {name: {**estimate(values), "n": len(values)} for name, values in classes.items()}
    numbers = {"by_class": by_class, "amount": words.amount, "correlation": correlation}
    found = Measurement({"hardness": numbers}, {words.amount: amount})
    label = f"{words.amount} ({words.formula} over {words.entry}s)"
    found.draw("hardness", _hardness_figure, classes, amount[finite], gap[finite], correlation, label)
    if subject.x.dim() == 4 and subject.x.shape[1] in (1, 3) and can_decode(subject.model):
        found.draw("gallery", _gallery, subject, gap, num_images)
    return found


def gap_by_class(subject: Subject, gap: Tensor) -> dict[str, Tensor]:
    """The finite gaps of each class that occurs, by its name; none where there are no labels."""
    if subject.labels is None:
        return {}
    labels, names = subject.labels.to(gap.device), subject.class_names
    found = {}
    for label in labels[gap.isfinite()].unique().tolist():
        found[names[label] if label < len(names) else str(label)] = gap[(labels == label) & gap.isfinite()]
    return found


def _correlation(amount: Tensor, gap: Tensor) -> dict[str, float | None]:
    a, b = amount.double().cpu().numpy(), gap.double().cpu().numpy()
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return {"pearson": None, "pearson_p": None, "spearman": None, "spearman_p": None}
    (r, p), (rank_r, rank_p) = pearsonr(a, b), spearmanr(a, b)
    return {"pearson": float(r), "pearson_p": float(p), "spearman": float(rank_r), "spearman_p": float(rank_p)}


def _hardness_figure(
    classes: Mapping[str, Tensor], amount: Tensor, gap: Tensor, correlation: Mapping[str, Any], label: str
) -> Figure:
    order = sorted(classes, key=lambda name: classes[name].median().item(), reverse=True)
    left_out = max(0, len(order) - 2 * NUM_EXTREME)
    shown = order if not left_out else order[:NUM_EXTREME] + order[-NUM_EXTREME:]
    figure = Figure(figsize=(8.5 if classes else 4.5, max(3.6, 1.2 + 0.28 * len(shown))), layout="constrained")
    panels = figure.subplots(1, 2 if classes else 1, squeeze=False)[0]
    if classes:
        boxes = panels[0]
        boxes.boxplot([classes[name].double().cpu().numpy() for name in shown], orientation="horizontal", sym="")
        names = [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in shown]
        boxes.set_yticks(range(1, len(shown) + 1), names, fontsize=8)
        boxes.invert_yaxis()  # the hardest is on top
        boxes.set_xlabel("inference gap (nats a datapoint)")
        boxes.set_title(f"Hardest and easiest classes ({left_out} between)" if left_out else "Which classes are hard")
    axes = panels[-1]
    axes.plot(amount.double().cpu().numpy(), gap.double().cpu().numpy(), ".", markersize=3, alpha=0.5)
    told = "" if correlation["spearman"] is None else f": Spearman {correlation['spearman']:.2f}".replace("-", "−")
    axes.set(xlabel=label, ylabel="inference gap (nats a datapoint)", title=f"Gap and {label.partition(' ')[0]}{told}")
    for one in panels:
        one.grid(alpha=0.3)
        one.title.set_fontsize(10)
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

"""Where nats are lost, scheme by scheme."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from .measures import Estimate, measure, over_seeds
from .results import Result, by_scheme

_PARTS = {  # measure -> (label, colour)
    "approximation": ("approximation: log p(x) − L[q*]", "#4c72b0"),
    "remaining": ("amortization that remains: L[q*] − L at λ_K", "#dd8452"),
    "recovered": ("recovered by refinement: L at λ_K − L at λ₀", "#c8c8c8"),
}


def gap_bars(results: Sequence[Result]) -> Figure | None:
    """A stacked bar for each scheme, whose whole length is log p(x) − L at λ₀; None where no gaps were measured."""
    gaps: dict[str, dict[str, Estimate]] = {}
    for name, group in by_scheme(results).items():
        found = {part: over_seeds([measure(r.evaluation, part) for r in group]) for part in _PARTS}
        known = {part: value for part, value in found.items() if value is not None}
        if known:
            gaps[name] = known
    if not gaps:
        return None
    figure = Figure(figsize=(7.5, 1.4 + 0.38 * len(gaps)), layout="constrained")
    axes = figure.subplots()
    names, ends = list(gaps), np.zeros(len(gaps))
    for part, (label, colour) in _PARTS.items():
        means = np.array([gaps[name].get(part, Estimate(0.0)).mean for name in names])
        errors = np.nan_to_num([gaps[name].get(part, Estimate(0.0)).se for name in names])
        hatch = "////" if part == "recovered" else None
        axes.barh(names, means, left=ends, color=colour, label=label, height=0.65, hatch=hatch, edgecolor="white")
        ends = ends + means
        seen = means != 0
        rows = np.arange(len(names))[seen]
        axes.errorbar(ends[seen], rows, xerr=errors[seen], fmt="none", ecolor="black", capsize=3, elinewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("nats an image")
    axes.set_title("Where nats are lost: log p(x) − L at λ₀, in parts (± SE)", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=1, fontsize=8, frameon=False)
    return figure

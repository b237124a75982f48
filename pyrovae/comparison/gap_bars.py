"""Where nats are lost, scheme by scheme."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .measures import Estimate, measure, over_seeds
from .results import Result, by_scheme

_LOST = {  # measure -> (label, colour)
    "approximation": ("approximation: log p(x) − L[q*]", "#4c72b0"),
    "remaining": ("amortization that remains: L[q*] − L at λ_K", "#dd8452"),
}
_RECOVERED = {"recovered": ("recovered by refinement: L at λ_K − L at λ₀", "#8c8c8c")}


def gap_bars(results: Sequence[Result]) -> Figure | None:
    """What is lost at λ_K, in parts, and beside it what refinement recovered; None where no gaps were measured."""
    gaps: dict[str, dict[str, Estimate]] = {}
    for name, group in by_scheme(results).items():
        found = {part: over_seeds([measure(r.evaluation, part) for r in group]) for part in (*_LOST, *_RECOVERED)}
        known = {part: value for part, value in found.items() if value is not None}
        if known:
            gaps[name] = known
    if not gaps:
        return None
    figure = Figure(figsize=(8, 1.6 + 0.36 * len(gaps)), layout="constrained")
    lost, recovered = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _stack(lost, gaps, _LOST)
    _stack(recovered, gaps, _RECOVERED)
    lost.invert_yaxis()  # of both: the first scheme is on top
    lost.set_title("Lost: log p(x) − L at λ_K (± SE)", fontsize=10)
    recovered.set_title("Recovered (± SE)", fontsize=10)
    figure.legend(loc="outside lower center", ncols=1, fontsize=8, frameon=False)
    return figure


def _stack(axes: Any, gaps: Mapping[str, Mapping[str, Estimate]], parts: Mapping[str, tuple[str, str]]) -> None:
    names, ends = list(gaps), np.zeros(len(gaps))
    for part, (label, colour) in parts.items():
        means = np.array([gaps[name].get(part, Estimate(0.0)).mean for name in names])
        errors = np.nan_to_num([gaps[name].get(part, Estimate(0.0)).se for name in names])
        axes.barh(names, means, left=ends, color=colour, label=label, height=0.65)
        ends = ends + means
        axes.errorbar(ends, np.arange(len(names)), xerr=errors, fmt="none", ecolor="black", capsize=3, elinewidth=1)
    axes.set_xlabel("nats a datapoint")
    axes.tick_params("y", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

"""Figures of a comparison: differences, gaps, what ELBO costs, and reconstructions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from ..evaluation.gaps import gap_bars
from ..training.figures import image_rows
from .results import Result, paired_difference
from .table import Row, number

_MOST = 14  # rows of pictures that one can look at
_COMPARED = {"elbo": "ELBO at λ_K", "log_evidence": "log p̂"}


def forest(table: Sequence[Row], split: str) -> Figure | None:
    """Paired differences to the first scheme with 95 % intervals; None where there are none."""
    others, panels = [row.scheme for row in table[1:]], {}
    for name, what in _COMPARED.items():
        found = {row.scheme: paired_difference(table[0].group, row.group, name, split) for row in table[1:]}
        if any(found.values()):
            panels[what] = {scheme: difference for scheme, difference in found.items() if difference}
    if not panels:
        return None
    figure = Figure(figsize=(9, 1.1 + 0.32 * len(others)), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (what, differences) in zip(all_axes, panels.items(), strict=True):
        for scheme, difference in differences.items():
            (low, high), y = difference.interval, others.index(scheme)
            axes.plot([low, high], [y, y], color="#1f4e79", linewidth=1.8, solid_capstyle="butt")
            axes.plot(difference.mean, y, "s", color="#1f4e79", markersize=5)
            text, place = f"[{number(low)}, {number(high)}]", axes.get_yaxis_transform()
            axes.text(1.02, y, text, transform=place, va="center", fontsize=8)  # beside the panel
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(others)), others, fontsize=8)
        axes.set_ylim(len(others) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("nats a datapoint", fontsize=8)
        axes.set_title(f"{what} − that of {table[0].scheme}", fontsize=9)
        _finish(axes)
    return figure


def gaps(table: Sequence[Row], split: str) -> Figure | None:
    """What is lost at λ_K, in parts, and what refinement recovered; None where no gaps were measured."""
    parts = ("approximation", "remaining", "recovered")
    shown = {row.scheme: {p: row.gaps[p] for p in parts} for row in table if row.gaps.keys() >= {*parts}}
    return gap_bars(shown) if shown else None


def costs(table: Sequence[Row], split: str) -> Figure | None:
    """ELBO along inner steps, against milliseconds of inference, and against seconds of training."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    palette = colormaps["tab10" if len(table) <= 10 else "tab20"]
    panels = figure.subplots(1, 3)
    for i, (name, group, *_) in enumerate(table):
        style: dict[str, Any] = {"color": palette(i % palette.N), "label": name}
        steps, elbo, seconds = _mean_trajectory(group)
        at = steps == group[0].num_steps
        for axes, x in zip(panels, (steps, 1e3 * seconds), strict=False):
            if np.isfinite(x).any():
                axes.plot(x, elbo, linewidth=1.5, **style)
                axes.plot(x[at], elbo[at], "o", markersize=6, color=style["color"])
        for curve in (result.curve for result in group if result.curve):
            panels[2].plot(*zip(*curve, strict=True), ".-", linewidth=1, markersize=4, **style)
    labels = ("inner step k", "ms of inference a datapoint", "seconds of training")
    for axes, label in zip(panels, labels, strict=True):
        if not axes.lines:
            axes.remove()
            continue
        all_x, all_y = ([np.asarray(line.get_data()[i], dtype=float) for line in axes.lines] for i in (0, 1))
        positive = np.concatenate([part[part > 0] for part in all_x])
        if axes is panels[0]:
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(left=0)
        elif positive.size:
            axes.set_xscale("log", nonpositive="clip")
            axes.set_xlim(left=0.7 * max(positive.min(), positive.max() / 1e4))  # a start may take next to nothing
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=label, ylabel="validation ELBO (nats)" if axes is panels[2] else "ELBO at λ_k (nats)")
        # Starts far below are left out, beside which schemes could not be told apart; dots and ends stay in.
        low, high = np.nanquantile(np.concatenate(all_y), [0.1, 1])
        low = np.nanmin([low, *(part[-1] for part in all_y)])  # a dot is a line of one point
        span = high - low or 1.0
        axes.set_ylim(low - 0.15 * span, high + 0.08 * span)
        _finish(axes)
    named = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    lines = {name: line for name, line in named.items() if name[0] != "_"}
    columns = max(1, min(6, 120 // max(map(len, lines), default=1)))
    figure.legend(lines.values(), [*lines], loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    return figure if lines else None


def _mean_trajectory(group: Sequence[Result]) -> tuple[np.ndarray, ...]:
    """Steps that all seeds have, and means over seeds of ELBO and seconds there; NaN where these are unknown."""
    steps = sorted(set.intersection(*({*result.along("step")} for result in group)))
    keys = ("elbo", "seconds_per_image")
    found = [[[result.along(key).get(step) for step in steps] for result in group] for key in keys]
    return np.array(steps), *np.array(found, dtype=float).mean(1)


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def reconstructions(table: Sequence[Row], split: str) -> Figure | None:
    """The same images by each scheme's first seed; None where there are no images."""
    shown: dict[str, torch.Tensor] = {}
    for row in table[:_MOST]:
        inputs, made = (row.group[0].values.get(f"{split}/{what}") for what in ("inputs", "reconstructions"))
        if inputs is not None and made is not None and inputs.ndim == 4:
            first = shown.setdefault("input", torch.from_numpy(inputs))
            if np.array_equal(first.numpy(), inputs):  # else they are not comparable
                shown[row.scheme] = torch.from_numpy(made)
    if len(shown) < 2:
        return None
    figure = image_rows(shown)
    size = (8 - 0.075 * max(map(len, shown))) / 12  # inches of an image beside the longest name
    figure.set_size_inches(8, 0.2 + (size + 0.12) * len(shown))
    return figure


FIGURES: dict[str, Callable[[Sequence[Row], str], Figure | None]]
FIGURES = {"forest": forest, "gaps": gaps, "costs": costs, "reconstructions": reconstructions}

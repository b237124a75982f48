"""Figures of a comparison: differences, gaps, what ELBO costs, and reconstructions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ..evaluation.gaps import gap_bars
from ..training.figures import image_rows
from .measures import trained_num_steps
from .results import Result, by_scheme, paired_difference
from .table import number, rows

_MOST = 14  # rows of pictures that one can look at
_COMPARED = {"elbo": "ELBO at λ_K", "log_evidence": "log p̂"}


def forest(results: Sequence[Result], split: str) -> Figure | None:
    """Paired differences to the first scheme with 95 % intervals; None where there are none."""
    groups = by_scheme(results)
    first, *others = groups or [""]
    found = {
        name: {other: paired_difference(groups[first], groups[other], name, split) for other in others}
        for name in _COMPARED
    }
    panels = {name: {o: d for o, d in part.items() if d is not None} for name, part in found.items()}
    panels = {name: part for name, part in panels.items() if part}
    if not panels:
        return None
    figure = Figure(figsize=(8, 1.2 + 0.34 * len(others)), layout="constrained")
    for axes, (name, part) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True
    ):
        for y, other in enumerate(others):
            if (difference := part.get(other)) is None:
                continue
            low, high = difference.interval
            axes.plot([low, high], [y, y], color="#1f4e79", linewidth=1.8, solid_capstyle="butt")
            axes.plot(difference.mean, y, "s", color="#1f4e79", markersize=5)
            text = f"{number(difference.mean, 2, '+')} [{number(low)}, {number(high)}]"
            axes.annotate(text, (1.0, y), (-2, 0), axes.get_yaxis_transform(), "offset points", ha="right", va="center", fontsize=7.5)  # fmt: skip
        ends = np.array([difference.interval for difference in part.values()] + [(0.0, 0.0)])
        span = np.ptp(ends) or 1.0
        axes.set_xlim(ends.min() - 0.06 * span, ends.max() + 0.75 * span)  # room for the numbers
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(others)), others, fontsize=8)
        axes.set_ylim(len(others) - 0.5, -0.5)
        axes.set_xlabel("nats a datapoint", fontsize=8)
        axes.set_title(f"{_COMPARED[name]} − that of {first}", fontsize=9)
        _finish(axes)
    return figure


def gaps(results: Sequence[Result], split: str) -> Figure | None:
    """What is lost at λ_K, in parts, and what refinement recovered; None where no gaps were measured."""
    parts = ("approximation", "remaining", "recovered")
    found = {row.scheme: row.estimates for row in rows(results, split)}
    known = {s: {p: e[p]._asdict() for p in parts} for s, e in found.items() if {*parts} <= e.keys()}
    return gap_bars(known) if known else None


def _colours(results: Sequence[Result]) -> dict[str, Any]:
    """A colour for each scheme, the same in all figures."""
    names = list(by_scheme(results))
    palette = colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {name: palette(i % palette.N) for i, name in enumerate(names)}


def _mean_trajectory(group: Sequence[Result]) -> dict[str, np.ndarray]:
    """`step`, `elbo` and `seconds`, means over seeds at the steps that all have; empty if there is none."""
    found = [result.evaluation.get("trajectory") or {} for result in group]
    if not all(part.get("step") and part.get("elbo") for part in found):
        return {}
    steps = sorted(set.intersection(*(set(part["step"]) for part in found)))

    def mean(key: str) -> np.ndarray:
        if not all(part.get(key) for part in found):
            return np.full(len(steps), np.nan)
        values = [[part[key][part["step"].index(step)] for step in steps] for part in found]
        return np.array(values, dtype=float).mean(0)

    return {"step": np.array(steps), "elbo": mean("elbo"), "seconds": mean("seconds_per_image")}


def elbo_against_steps(results: Sequence[Result], split: str) -> Figure | None:
    """ELBO along inner steps, far beyond those of training; None without trajectories."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    _draw_trajectories(axes, results, "step")
    if not axes.lines:
        return None
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="inner step k", ylabel="ELBO at λ_k (nats a datapoint)")
    _zoom(axes)
    _finish(axes)
    _legend(figure, axes)
    return figure


def elbo_against_seconds(results: Sequence[Result], split: str) -> Figure | None:
    """Validation ELBO against seconds of training, and ELBO against milliseconds of inference."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    train, test = figure.subplots(1, 2)
    shades = _colours(results)
    for name, group in by_scheme(results).items():
        for i, result in enumerate(result for result in group if result.curve):
            seconds, elbo = zip(*result.curve, strict=True)
            train.plot(seconds, elbo, ".-", color=shades[name], linewidth=1, label=None if i else name, markersize=4)
    _draw_trajectories(test, results, "seconds", 1e3)
    if not (train.lines or test.lines):
        return None
    train.set(xlabel="seconds of training", ylabel="validation ELBO (nats a datapoint)")
    test.set(xlabel="ms of inference a datapoint", ylabel=f"{results[0].main} ELBO (nats a datapoint)")
    for axes in (train, test):
        times = np.concatenate([np.zeros(1), *(np.asarray(line.get_xdata(), dtype=float) for line in axes.lines)])
        if (times > 0).any():
            axes.set_xscale("log", nonpositive="clip")
            axes.set_xlim(left=0.7 * max(times[times > 0].min(), times.max() / 1e4))  # a start may take next to nothing
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        _zoom(axes)
        _finish(axes)
    _legend(figure, train, test)
    return figure


def _draw_trajectories(axes: Any, results: Sequence[Result], along: str, scale: float = 1.0) -> None:
    """A line for each scheme, and a dot at the K of its training."""
    shades = _colours(results)
    for name, group in by_scheme(results).items():
        path = _mean_trajectory(group)
        if not path or not np.isfinite(path[along]).any():
            continue
        axes.plot(scale * path[along], path["elbo"], color=shades[name], label=name, linewidth=1.5)
        at = path["step"] == trained_num_steps(group[0].evaluation)
        axes.plot(scale * path[along][at], path["elbo"][at], "o", color=shades[name], markersize=6)


def _zoom(axes: Any) -> None:
    """Leaves out starts far below, beside which schemes could not be told apart; dots and ends stay in."""
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]
    values, ends = (np.concatenate(part or [np.zeros(1)]) for part in (lines, [line[-1:] for line in lines]))
    values, ends = values[np.isfinite(values)], ends[np.isfinite(ends)]  # a dot is a line of one point
    if len(values) > 8 and len(ends):
        low, high = min(np.quantile(values, 0.1), ends.min()), values.max()
        axes.set_ylim(low - 0.15 * (high - low), high + 0.08 * (high - low))


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, *axes: Any) -> None:
    entries = {label: handle for part in axes for handle, label in zip(*part.get_legend_handles_labels(), strict=True)}
    if entries:
        columns = 1 if max(map(len, entries)) > 40 else 2 if max(map(len, entries)) > 20 else 4
        figure.legend(
            entries.values(), entries.keys(), loc="outside lower center", ncols=columns, fontsize=8, frameon=False
        )


def reconstructions(results: Sequence[Result], split: str) -> Figure | None:
    """The same images by each scheme's first seed; None where there are no images."""
    shown: dict[str, torch.Tensor] = {}
    for name, group in by_scheme(results).items():
        inputs, made = (group[0].values.get(f"{split}/{what}") for what in ("inputs", "reconstructions"))
        if inputs is None or made is None or inputs.ndim != 4 or len(shown) > _MOST:
            continue
        first = shown.setdefault("input", torch.from_numpy(inputs))
        if np.array_equal(first.numpy(), inputs):  # else they are not comparable
            shown[name] = torch.from_numpy(made)
    if len(shown) < 2:
        return None
    figure = image_rows(shown)
    row = (8 - 0.075 * max(map(len, shown))) / 12  # inches of an image beside the longest name
    figure.set_size_inches(8, 0.2 + (row + 0.12) * len(shown))
    return figure


FIGURES: dict[str, tuple[Callable[[Sequence[Result], str], Figure | None], str]] = {
    "forest": (
        forest,
        "Differences on the same datapoints, with 95 % intervals (± 1.96 standard errors over datapoints and seeds).",
    ),
    "gaps": (gaps, "What is lost at λ_K, in its parts, and what inner steps recovered of the amortization gap (± SE)."),
    "elbo_against_steps": (
        elbo_against_steps,
        "What inner steps gain, mean over seeds: dots at the K of training. What starts far below is cut off.",
    ),
    "elbo_against_seconds": (
        elbo_against_seconds,
        "Left, training, a line a seed; right, inference, mean over seeds, dots at the K of training.",
    ),
    "reconstructions": (reconstructions, "The same datapoints, and their reconstructions at λ_K by the first seed."),
}

"""Figures of what ELBO costs, in inner steps and in seconds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from .measures import trained_num_steps
from .results import Result, by_scheme


def colours(results: Sequence[Result]) -> dict[str, Any]:
    """A colour for each scheme, the same in all figures."""
    names = list(by_scheme(results))
    palette = colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {name: palette(i % palette.N) for i, name in enumerate(names)}


def mean_trajectory(group: Sequence[Result]) -> dict[str, np.ndarray]:
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

    keys = {"elbo": "elbo", "seconds": "seconds_per_image"}
    return {"step": np.array(steps), **{name: mean(key) for name, key in keys.items()}}


def elbo_against_steps(results: Sequence[Result]) -> Figure | None:
    """Test ELBO along inner steps, far beyond those of training; None without trajectories."""
    paths = {name: (mean_trajectory(group), group) for name, group in by_scheme(results).items()}
    paths = {name: path for name, path in paths.items() if path[0]}
    if not paths:
        return None
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes, shades = figure.subplots(), colours(results)
    for name, (path, group) in paths.items():
        axes.plot(path["step"], path["elbo"], color=shades[name], label=name, linewidth=1.5)
        k = trained_num_steps(group[0].evaluation)
        if k in path["step"]:
            axes.plot(k, path["elbo"][path["step"] == k], "o", color=shades[name], markersize=6)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="inner step k", ylabel="test ELBO at λ_k (nats a datapoint)")
    axes.set_title(
        "What inner steps gain: dots at the K of training; errors of differences are in the table", fontsize=10
    )
    _zoom(axes)
    _finish(axes)
    _legend(figure, axes)
    return figure


def elbo_against_seconds(results: Sequence[Result]) -> Figure | None:
    """Validation ELBO against seconds of training, and test ELBO against milliseconds of inference."""
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    train, test = figure.subplots(1, 2)
    shades, drawn = colours(results), False
    for name, group in by_scheme(results).items():
        for i, result in enumerate(result for result in group if result.curve):
            seconds, elbo = zip(*result.curve, strict=True)
            train.plot(seconds, elbo, ".-", color=shades[name], linewidth=1, label=None if i else name, markersize=4)
            drawn = True
        path = mean_trajectory(group)
        if path and np.isfinite(path["seconds"]).any():
            ms = 1e3 * path["seconds"]
            test.plot(ms, path["elbo"], color=shades[name], linewidth=1.5, label=name)
            k = trained_num_steps(group[0].evaluation)
            at = path["step"] == k
            test.plot(ms[at], path["elbo"][at], "o", color=shades[name], markersize=6)
            drawn = True
    if not drawn:
        return None
    train.set(
        xlabel="seconds of training", ylabel="validation ELBO (nats a datapoint)", title="Training: a line a seed"
    )
    test.set(
        xlabel="ms of inference a datapoint",
        ylabel="test ELBO (nats a datapoint)",
        title="Test: dots at the K of training",
    )
    for axes in (train, test):
        axes.set_title(axes.get_title(), fontsize=10)
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

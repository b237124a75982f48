"""Steps of training against steps at test."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .curves import mean_trajectory
from .measures import trained_num_steps
from .results import Result, by_scheme
from .table import number

_STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 400, 1000)


def steps_heat_map(results: Sequence[Result]) -> Figure | None:
    """Test ELBO of each refining scheme (row, by its K of training) after k inner steps (column)."""
    paths = []
    for name, group in by_scheme(results).items():
        k, path = trained_num_steps(group[0].evaluation), mean_trajectory(group)
        if k and path:
            paths.append((k, name, path))
    if not paths:
        return None
    paths.sort(key=lambda item: item[0])
    steps = sorted({*_STEPS, *(k for k, _, _ in paths)})
    steps = [step for step in steps if step <= max(path["step"][-1] for _, _, path in paths)]
    # Trajectories are scored at steps of their own: between two ELBO is interpolated, beyond the last it is unknown.
    values = np.array([np.interp(steps, path["step"], path["elbo"], right=np.nan) for _, _, path in paths])
    if not np.isfinite(values).any():  # all diverged
        return None
    figure = Figure(figsize=(min(2.8 + 0.65 * len(steps), 8.5), 1.5 + 0.4 * len(paths)), layout="constrained")
    axes = figure.subplots()
    low = np.nanquantile(values, 0.1)  # a start far off would leave one colour for all the rest
    image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=low, vmax=np.nanmax(values))
    for row, column in np.argwhere(np.isfinite(values)).tolist():
        is_trained, value = steps[column] == paths[row][0], values[row, column]
        colour = "white" if (value - low) < 0.6 * (np.nanmax(values) - low) else "black"
        weight = "bold" if is_trained else "normal"
        text = number(value, 1)
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5, weight=weight)
        if is_trained:
            corner = (column - 0.47, row - 0.47)
            axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor="red", linewidth=1.8))
    axes.set_xticks(range(len(steps)), [str(step) for step in steps])
    axes.set_yticks(range(len(paths)), [f"{name} (K = {k})" for k, name, _ in paths], fontsize=8)
    axes.set(xlabel="inner steps at test", ylabel="scheme (K of training)")
    axes.set_title("Test ELBO by steps of training and of test; red: test as in training", fontsize=10)
    figure.colorbar(image, label="ELBO (nats a datapoint)", extend="min")
    return figure

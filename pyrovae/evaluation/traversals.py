"""What latent dimensions do, as pictures: walks along one of them, and from one image to another."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..models import HierarchicalVAE, can_decode
from ..training.figures import column_names, image_rows
from .subject import NO_DECODE, Measurement, Subject, posterior_draws, posterior_mean

NUM_INFERRED = 500  # datapoints that say which latent dimensions are active, and how far they reach
NUM_DIMS, NUM_VALUES, NUM_PAIRS = 8, 7, 6
REACH = 3.0  # standard deviations of the aggregate posterior to either side


def most_active(means: Tensor, num: int) -> list[int]:
    """The `num` latent dimensions, or all, whose posterior means (N, D) vary most over the data; largest first."""
    return means.var(0, correction=0).argsort(descending=True)[:num].tolist()


@torch.no_grad()
def traverse(model: Any, mean: Tensor, dims: Sequence[int], values: Tensor) -> Tensor:
    """E[x | z] where one entry of z after another takes each of the values, the others kept.

    From z = `mean` (D,), each of `dims` becomes `values` (V,), or its own row of (R, V); returns (R, V, *x_shape). In a
    model of several layers, side by side in z with the bottom first, those below the entry follow it, at their means.
    """
    rows = []
    for dim, row in zip(dims, values.to(mean).expand(len(dims), -1), strict=True):
        z = mean.repeat(len(row), 1)  # (V, D)
        z[:, dim] = row
        if isinstance(model, HierarchicalVAE):
            layers = list(z.split(model.z_dims, -1))
            moved = next(level for level in range(len(layers)) if dim < sum(model.z_dims[: level + 1]))
            for level in reversed(range(moved)):
                layers[level] = model.conditional(level, layers[level + 1]).mean
            z = torch.cat(layers, -1)
        rows.append(model.decode(z).mean)
    return torch.stack(rows)


@torch.no_grad()
def interpolate(model: Any, a: Tensor, b: Tensor, num: int) -> Tensor:
    """E[x | z] at `num` points of the straight lines from `a` to `b` (R, D), or (D,), both ends included.

    Returns (R, num, *x_shape), for a model with `decode`; a ValueError, if `num` is below 2.
    """
    if num < 2:
        raise ValueError(f"num must be >= 2, the two ends, got {num}")
    a, b = torch.atleast_2d(a)[:, None], torch.atleast_2d(b)[:, None]  # (R, 1, D)
    share = torch.linspace(0, 1, num, dtype=a.dtype, device=a.device)[:, None]  # (V, 1)
    return model.decode((1 - share) * a + share * b).mean


def walks(subject: Subject) -> dict[str, Tensor]:
    """`traversals` of the most active dimensions, from the first datapoint's mean, and `interpolations` between pairs.

    Entry `traversal_dims` (R,) of z takes `traversal_values` (R, V), from -3 to 3 standard deviations of the aggregate
    posterior around its mean. Datapoint r goes to R + r.
    """
    params = subject.params[:NUM_INFERRED]
    means = posterior_mean(subject.family, params)  # (N, D)
    dims = most_active(means, NUM_DIMS)
    drawn = posterior_draws(subject.family, params, 1)[0][:, dims]  # (N, R) of the aggregate posterior
    steps = torch.linspace(-REACH, REACH, NUM_VALUES).to(means)
    values = drawn.mean(0)[:, None] + drawn.std(0, correction=0)[:, None] * steps  # (R, V)
    pairs = max(1, min(NUM_PAIRS, len(means) // 2))
    return {
        "traversals": traverse(subject.model, means[0], dims, values),
        "traversal_dims": torch.tensor(dims),
        "traversal_values": values,
        "interpolations": interpolate(subject.model, means[:pairs], means.roll(-pairs, 0)[:pairs], NUM_VALUES),
    }


def traversals(subject: Subject) -> Measurement:
    """The figures of `walks`."""
    if not can_decode(subject.model):
        return Measurement(warnings=[f"traversals: {NO_DECODE}"])
    found, arrays = Measurement(), walks(subject)
    found.draw("traversals", walk_figure, "traversals", arrays)
    found.draw("interpolations", walk_figure, "interpolations", arrays)
    return found


def walk_figure(name: str, arrays: Mapping[str, Tensor]) -> Figure | None:
    """`traversals` or `interpolations` of `walks`, (R, V, C, H, W); None for data other than images."""
    images = arrays[name]
    if images.dim() != 5:
        return None
    if name == "traversals":
        rows, ends = [f"z_{dim}" for dim in arrays["traversal_dims"].tolist()], (-REACH, REACH)
        title, label = (
            "Moving one latent dimension at a time",
            "standard deviations from the aggregate posterior's mean",
        )
    else:
        rows, ends = [f"{r} to {len(images) + r}" for r in range(len(images))], (0, 100)
        title, label = "Straight lines in latent space", "way from one posterior mean to another (%)"
    figure = image_rows(dict(zip(rows, images, strict=True)), images.shape[1])
    columns = [f"{value:.3g}" for value in np.linspace(*ends, images.shape[1])]
    column_names(figure.axes[-1], columns, images.shape[-1])
    figure.axes[-1].set_xlabel(label)
    figure.suptitle(title)
    return figure

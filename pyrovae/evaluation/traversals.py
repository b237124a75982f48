"""What latent dimensions do, as pictures: walks along one of them, and from one image to another."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..models import HierarchicalVAE, can_decode
from ..training.figures import column_names, image_rows
from .subject import Measurement, Subject, posterior_draws, posterior_mean

NUM_INFERRED = 500  # datapoints that say which latent dimensions are active, and how far they reach
NUM_DIMS, NUM_VALUES, NUM_PAIRS = 8, 7, 6
REACH = 3.0  # standard deviations of the aggregate posterior to either side


def most_active(means: Tensor, num: int) -> list[int]:
    """The `num` latent dimensions, or all, whose posterior means (N, D) vary most over the data; largest first."""
    return means.var(0, correction=0).argsort(descending=True)[:num].tolist()


def traverse(model: Any, mean: Tensor, dims: Sequence[int], values: Tensor) -> Tensor:
    """E[x | z] where one entry of z after another takes each of the values, the others kept.

    In a model of several layers, layers below that entry follow it, at their means: the decoder sees the bottom one.

    Args:
        model: With `decode`; its z is the layers side by side, bottom first.
        mean: z to start from (D,), an image's posterior mean or zeros.
        dims: Entries of z to move, a row each.
        values: What they become, (V,), or (R, V) with values of each row's own. Returns (R, V, *x_shape).
    """
    values, rows = values.to(mean).expand(len(dims), -1), []  # (R, V)
    with torch.no_grad():
        for dim, row in zip(dims, values, strict=True):
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


def interpolate(model: Any, a: Tensor, b: Tensor, num: int) -> Tensor:
    """E[x | z] at `num` points of the straight lines from `a` to `b` (R, D), or (D,), both ends included.

    Returns (R, num, *x_shape), for a model with `decode`; a ValueError, if `num` is below 2.
    """
    if num < 2:
        raise ValueError(f"num must be >= 2, the two ends, got {num}")
    a, b = torch.atleast_2d(a)[:, None], torch.atleast_2d(b)[:, None]  # (R, 1, D)
    share = torch.linspace(0, 1, num, dtype=a.dtype, device=a.device)[:, None]  # (V, 1)
    with torch.no_grad():
        return model.decode((1 - share) * a + share * b).mean


def walks(subject: Subject) -> dict[str, Tensor]:
    """`traversals` of the most active dimensions, from the first datapoint's mean, and `interpolations` between pairs.

    Each dimension goes from -3 to 3 standard deviations of the aggregate posterior around that posterior's mean:
    entry `traversal_dims` (R,) of z takes `traversal_values` (R, V). Datapoint r goes to R + r.
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
        return Measurement(warnings=["traversals: left out, for the model has no `decode`; write one, z to p(x | z)"])
    found, arrays = Measurement(), walks(subject)
    for name in ("traversals", "interpolations"):
        found.draw(name, walk_figure, name, arrays)
    return found


def walk_figure(name: str, arrays: Mapping[str, Tensor]) -> Figure | None:
    """`traversals` or `interpolations` of `walks`, (R, V, C, H, W); None for data other than images."""
    images = arrays[name]
    if images.dim() != 5:
        return None
    if name == "traversals":
        rows = [f"z_{dim}" for dim in arrays["traversal_dims"].tolist()]
        columns, title = torch.linspace(-REACH, REACH, images.shape[1]), "Moving one latent dimension at a time"
        label = "standard deviations from the aggregate posterior's mean"
    else:
        rows = [f"{r} to {len(images) + r}" for r in range(len(images))]
        columns, title = torch.linspace(0, 100, images.shape[1]), "Straight lines in latent space"
        label = "way from one posterior mean to another (%)"
    figure = image_rows(dict(zip(rows, images, strict=True)), len(columns))
    column_names(figure.axes[-1], [f"{value:.3g}" for value in columns.tolist()], images.shape[-1])
    figure.axes[-1].set_xlabel(label)
    figure.suptitle(title)
    return figure

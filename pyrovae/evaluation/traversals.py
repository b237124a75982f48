"""What latent dimensions do, as pictures: walks along one of them, and from one image to another."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

from ..models import HierarchicalVAE
from ..training.figures import gap_grey, grey_range, in_colour, range_told, to_unit
from .draws import posterior_draws, posterior_mean
from .findings import Findings
from .subject import Subject

NUM_DIMS, NUM_VALUES, NUM_PAIRS = 8, 7, 6
REACH = 3.0  # standard deviations of the aggregate posterior to either side
TILE_SIZE = 0.65  # inches


def most_active(means: Tensor, num: int) -> list[int]:
    """The `num` latent dimensions, or all, whose posterior means (N, D) vary most over the data; largest first.

    Reference:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519
    """
    return means.var(0, correction=0).argsort(descending=True)[:num].tolist()


def traverse(model: Any, mean: Tensor, dims: Sequence[int], values: Tensor) -> Tensor:
    """E[x | z] where one entry of z after another takes each of the values, the others kept.

    In a model of several layers, layers below that entry follow it, at their means.

    Args:
        model: With `decode`; its z is the layers side by side, bottom first.
        mean: z to start from (D,), an image's posterior mean or zeros.
        dims: Entries of z to move, a row each.
        values: What they become, (V,), or (len(dims), V) with values of each row's own.

    Returns:
        (len(dims), V, *x_shape).
    """
    values = values.to(mean).expand(len(dims), -1)  # (R, V)
    with torch.no_grad():
        rows = []
        for dim, row in zip(dims, values, strict=True):
            z = mean.repeat(len(row), 1)  # (V, D)
            z[:, dim] = row
            rows.append(model.decode(_follow(model, z, dim)).mean)
    return torch.stack(rows)


def interpolate(model: Any, a: Tensor, b: Tensor, num: int) -> Tensor:
    """E[x | z] at `num` points of the straight line from `a` to `b`, both ends included.

    Args:
        model: With `decode`.
        a, b: (R, D), a row for each pair; or (D,) for one.
        num: Points, V.

    Returns:
        (R, V, *x_shape).

    Raises:
        ValueError: `num` below 2.
    """
    if num < 2:
        raise ValueError(f"num must be >= 2, the two ends, got {num}")
    a, b = torch.atleast_2d(a)[:, None], torch.atleast_2d(b)[:, None]  # (R, 1, D)
    share = torch.linspace(0, 1, num, dtype=a.dtype, device=a.device)[:, None]  # (V, 1)
    with torch.no_grad():
        return model.decode((1 - share) * a + share * b).mean


def _follow(model: Any, z: Tensor, dim: int) -> Tensor:
    """z (V, D) with layers below that of entry `dim` at their means given it: the decoder sees the bottom one alone."""
    if not isinstance(model, HierarchicalVAE):
        return z
    parts = list(z.split(model.z_dims, -1))
    moved = next(level for level in range(len(parts)) if dim < sum(model.z_dims[: level + 1]))
    for level in reversed(range(moved)):
        parts[level] = model.conditional(level, parts[level + 1]).mean
    return torch.cat(parts, -1)


def traversals(subject: Subject) -> Findings:
    """Figures: the most active dimensions around the first datapoint's mean, and lines between posterior means.

    Each dimension goes from -3 to 3 standard deviations of the aggregate posterior around that posterior's mean.
    """
    if not hasattr(subject.model, "decode"):
        return Findings(warnings=["traversals: left out, for the model has no `decode`; write one, z to p(x | z)"])
    means, model = posterior_mean(subject.family, subject.params), subject.model
    dims = most_active(means, NUM_DIMS)
    drawn = posterior_draws(subject.family, subject.params, 1)[0][:, dims]  # (N, R), of the aggregate posterior
    steps = torch.linspace(-REACH, REACH, NUM_VALUES).to(means)
    values = drawn.mean(0)[:, None] + drawn.std(0, correction=0)[:, None] * steps  # (R, V)
    pairs = min(NUM_PAIRS, len(means) // 2)
    drawings = {
        "traversals": traversal_figure(
            traverse(model, means[0], dims, values),
            dims,
            steps,
            "standard deviations from the aggregate posterior's mean",
        ),
        "interpolations": interpolation_figure(
            interpolate(model, means[:pairs], means[pairs : 2 * pairs], NUM_VALUES) if pairs else means.new_empty(0)
        ),
    }
    return Findings(figures={name: figure for name, figure in drawings.items() if figure is not None})


def traversal_figure(images: Tensor, dims: Sequence[int], values: Tensor, unit: str = "value of z_d") -> Figure | None:
    """What `traverse` gave, (R, V, C, H, W), with the values (V,) below; None for data other than images."""
    if images.dim() != 5:
        return None
    figure, axes, centres = _grid(images)
    axes.set_xticks(centres[0], [f"{value:.3g}" for value in values.tolist()])
    axes.set_yticks(centres[1], [f"z_{dim}" for dim in dims])
    axes.set(xlabel=unit, ylabel="latent dimension d", title="Moving one latent dimension at a time")
    return figure


def interpolation_figure(images: Tensor) -> Figure | None:
    """What `interpolate` gave, (R, V, C, H, W); None for data other than images."""
    if images.dim() != 5:
        return None
    figure, axes, centres = _grid(images)
    axes.set_xticks(centres[0], [f"{100 * k / (images.shape[1] - 1):.0f}" for k in range(images.shape[1])])
    axes.set_yticks([])
    axes.set(xlabel="way from one posterior mean to another (%)", title="Straight lines in latent space")
    return figure


def _grid(images: Tensor) -> tuple[Figure, Any, tuple[list[float], list[float]]]:
    """Rows of images (R, V, C, H, W), and where their columns' and rows' centres lie."""
    num_rows, num_columns, _, height, width = images.shape
    shown = in_colour(images.detach().float().cpu())
    limits = grey_range(shown)
    shown = to_unit(shown, limits).flatten(0, 1)
    picture = make_grid(shown, nrow=num_columns, padding=1, pad_value=gap_grey(limits)).permute(1, 2, 0)
    tile_width = min(TILE_SIZE * width / height, 7.0 / num_columns)
    size = (num_columns * tile_width + 1, num_rows * tile_width * height / width + 1)
    figure = Figure(figsize=(max(size[0], 4), size[1]), layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture.numpy(), interpolation="nearest")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.supxlabel(range_told(limits), fontsize=8)
    centres = (
        [1 + width / 2 + k * (width + 1) for k in range(num_columns)],
        [1 + height / 2 + k * (height + 1) for k in range(num_rows)],
    )
    return figure, axes, centres

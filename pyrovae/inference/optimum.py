"""The best member of a family for each datapoint."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..families import Family
from .frozen import frozen
from .optimum_search import Search
from .precise_terms import precise_terms
from .refiner import check_rows


class Optimum(NamedTuple):
    """What `optimum` found."""

    params: Tensor  # (B, P) λ*
    elbo: Tensor  # (B,) there, from draws that chose nothing
    num_steps: Tensor  # (B,) inner steps that each datapoint took
    converged: Tensor  # (B,) bool


def optimum(
    model: nn.Module,
    family: Family,
    x: Tensor,
    *starts: Tensor,
    tolerance: float = 0.02,
    max_steps: int = 5000,
    window: int = 100,
    num_particles: int = 1,
    score_particles: int = 25,
) -> Optimum:
    r"""The best q* of the family for each datapoint, by SVI to convergence.

    .. math:: \lambda^*_i = \arg\max_\lambda L(x_i, \lambda)

    Steps come in windows. After each, the mean of λ over its second half, from which most of the steps' noise is gone,
    is scored against the best λ so far under common noise, and the better is kept. Where a window gains less than
    `tolerance` the step size is lowered to a third; **a datapoint has converged when a whole window at the smallest
    step size gains it less than `tolerance`**, and takes no further step. The others go on to `max_steps`.

    The steps' noise that is left in the mean grows with the number of parameters: of a diagonal normal of 50 dimensions
    on MNIST about 0.03 nats are left to gain, which more draws a step or a longer window lower.

    What a family's datapoints share, a flow's weights say, is held still: q* is the best over λ.

    Args:
        model: Pyro model of plate `"data"`, held fixed.
        family: Turns λ into q.
        x: Data (B, *x_shape).
        starts: λ (B, P), one or more; each datapoint starts at the best of them, and never ends at a worse one.
        tolerance: Nats a window.
        max_steps: Inner steps a datapoint.
        window: Inner steps between scores.
        num_particles: Draws of z a datapoint and step.
        score_particles: Draws of z a datapoint and score.

    Raises:
        ValueError: A number out of range, no start, or one of another shape.

    Reference:
        Inference Suboptimality in Variational Autoencoders (Cremer et al., 2018), arXiv:1801.03558
    """
    _check(family, x, starts, tolerance, max_steps=max_steps, window=window)
    # Evaluation under Lightning has autograd off, and steps would move λ by zero.
    with torch.inference_mode(False), torch.enable_grad(), frozen(model), frozen(family):
        x = x.clone() if x.is_inference() else x
        search = Search(model, family, x, _best_of(model, family, x, starts, score_particles), num_particles)
        while len(search.rows) and search.taken < max_steps:
            average = search.steps(min(window, max_steps - search.taken))
            search.judge(average, tolerance, score_particles)
        (terms,) = precise_terms(model, family, x, search.best, num_particles=score_particles)
    return Optimum(search.best, terms.elbo(), search.num_steps, search.converged)


def _best_of(model: nn.Module, family: Family, x: Tensor, starts: tuple[Tensor, ...], num_particles: int) -> Tensor:
    """Of several λ (B, P) the best for each datapoint."""
    candidates = torch.stack([start.detach().clone() for start in starts])  # (number, B, P)
    if len(starts) == 1:
        return candidates[0]
    terms = precise_terms(model, family, x, *candidates, num_particles=num_particles)
    elbo = torch.stack([one.elbo() for one in terms]).nan_to_num(-torch.inf, neginf=-torch.inf)
    return candidates[elbo.argmax(0), torch.arange(len(x), device=x.device)]


def _check(family: Family, x: Tensor, starts: tuple[Tensor, ...], tolerance: float, **counts: int) -> None:
    if not starts:
        raise ValueError("optimum needs a start, λ (B, P), got none; give what the guide infers")
    for start in starts:
        check_rows(family, x, start)
    if not tolerance > 0:
        raise ValueError(f"tolerance must be > 0, got {tolerance}; 0.02 nats say")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")

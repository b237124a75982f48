"""The best member of a family for each datapoint, and ELBOs from many draws."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..families import Family
from ..validation import PositiveFloat, PositiveInt, validated
from .elbo import ELBO, Terms, common_noise, frozen
from .objectives import AnalyticELBO
from .refiner import SVIRefiner, check_rows, scalar, score_of
from .steps import AdamState, Settings

DRAWS = 25  # in a pass; alike for all, so that one graph serves
# Floats of data in a pass: more leave a CPU's cache, and fewer keep a GPU waiting.
FLOATS_CPU, FLOATS_GPU = 1_000_000, 64_000_000


@validated
def precise_terms(
    model: nn.Module, family: Family, x: Tensor, *params: Tensor, num_particles: PositiveInt = 100
) -> list[Terms]:
    """`common_noise_terms` for many draws and datapoints, in passes of bounded memory.

    The several λ (B, P) of a datapoint meet the same draws; another call meets others.

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> (terms,) = precise_terms(model, family, torch.ones(8, 4), torch.zeros(8, 4), num_particles=60)
    >>> terms.elbo().shape
    torch.Size([8])
    """
    draws = min(num_particles, DRAWS)
    passes = [min(draws, num_particles - first) for first in range(0, num_particles, draws)]
    budget = FLOATS_GPU if x.is_cuda else FLOATS_CPU
    rows = max(1, budget // (draws * (x[:1].numel() + params[0].shape[-1])))
    found = []
    # Out of inference mode, whose tensors a graph would not take; frozen, for one graph whoever asks.
    with torch.inference_mode(False), torch.no_grad(), frozen(model), frozen(family):
        for part, *at in zip(_split(x, rows), *(_split(row, rows) for row in params), strict=True):
            terms = [_score(model, family, part, at, count) for count in passes]
            found.append([_weighted_mean(one, passes) for one in zip(*terms, strict=True)])
    return [Terms(*map(torch.cat, zip(*one, strict=True))) for one in zip(*found, strict=True)]


def _split(tensor: Tensor, rows: int) -> tuple[Tensor, ...]:
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).split(rows)


def _score(model: nn.Module, family: Family, x: Tensor, params: list[Tensor], draws: int) -> list[Terms]:
    scored = score_of(model, family, draws).bind(x, params[0], None, calls=len(params))
    return common_noise(lambda row: scored(x, row, None), *params)


def _weighted_mean(terms: tuple[Terms, ...], counts: list[int]) -> Terms:
    weights = torch.tensor(counts, dtype=terms[0].kl.dtype, device=terms[0].kl.device)
    return Terms(*(weights @ torch.stack(side) / weights.sum() for side in zip(*terms, strict=True)))


STEP_SIZES = 0.03, 0.003  # Adam's first and last; between them each is a third of the one before
SHRINK = 1 / 3


class Search:
    """λ of all datapoints so far, and the state of those that still move; `optimum` says by what rule.

    Runs with gradients on and the model held still.
    """

    def __init__(self, model: nn.Module, family: Family, x: Tensor, start: Tensor, num_particles: int) -> None:
        self.model, self.family, self.x, self.best = model, family, x, start
        self.num_steps = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.converged = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.taken = 0
        objective: Any = (AnalyticELBO if family.density == "none" else ELBO)(num_particles=num_particles)
        run = SVIRefiner(objective=objective, optimizer="adam").programs(model, family)
        self.step, self.capture = run.step, run.advance
        largest, self.smallest = STEP_SIZES
        # Of those that still move:
        self.rows = torch.arange(len(x), device=x.device)
        self.lr = start.new_full((len(x), 1), largest)
        self.windows = torch.zeros_like(self.lr)  # how many windows the best λ is the mean of
        self.state = self.step.init(start)

    def steps(self, count: int) -> Tensor:
        """Takes so many steps; returns the mean of λ over the second half of them."""
        x, one = self.x[self.rows], scalar(1.0, self.best)
        total, first, settings = torch.zeros_like(self.state.params), count // 2, Settings(one, self.lr, one)
        advance = self.capture.bind(x, settings, self.state, None, calls=count)
        for k in range(count):
            self.state = advance(x, settings, self.state, None)
            if k >= first:
                total = total + self.state.params
        self.taken += count
        self.num_steps[self.rows] += count
        return total / (count - first)

    def judge(self, average: Tensor, tolerance: float, num_particles: int) -> None:
        """Keeps `average` where it is better, lowers step sizes, and lets those that have converged rest."""
        rows, best = self.rows, self.best[self.rows]
        blend = torch.lerp(best, average, 1 / (self.windows + 1))
        candidates = torch.stack([best, average, blend])  # (3, B, P)
        terms = precise_terms(self.model, self.family, self.x[rows], *candidates, num_particles=num_particles)
        elbo = torch.stack([one.elbo() for one in terms])  # (3, B)
        elbo = torch.where(elbo.isfinite() & candidates.isfinite().all(-1), elbo, -torch.inf)
        chosen = elbo.argmax(0)  # (B,) the first of equals: at NaN all over, the best so far
        each = torch.arange(len(rows), device=rows.device)
        best, gain = candidates[chosen, each], elbo[chosen, each] - elbo[0]
        self.best = self.best.index_copy(0, rows, best)
        self.windows = torch.where((chosen == 1)[:, None], 1.0, self.windows + (chosen == 2)[:, None])
        still = ~(gain > tolerance)
        at_last = still & (self.lr[:, 0] <= self.smallest)
        self.converged[rows] = at_last & elbo[chosen, each].isfinite()
        self.lr = torch.where(still[:, None], (self.lr * SHRINK).clamp_min(self.smallest), self.lr)
        self._keep(~at_last, best)

    def _keep(self, moving: Tensor, best: Tensor) -> None:
        """The next window starts at the best λ with the moments of the last, unless those are not finite."""
        moments = AdamState(*(part.nan_to_num(0.0, 0.0, 0.0)[moving] for part in self.state.optimizer))
        self.rows, self.lr, self.windows = self.rows[moving], self.lr[moving], self.windows[moving]
        gradient = self.state.gradient[moving]
        self.state = self.state._replace(params=best[moving], gradient=gradient, optimizer=moments)


class Optimum(NamedTuple):
    """What `optimum` found.

    >>> Optimum(torch.zeros(1, 4), torch.tensor([-90.0]), torch.tensor([300]), torch.tensor([True])).elbo
    tensor([-90.])
    """

    params: Tensor  # (B, P) λ*
    elbo: Tensor  # (B,) there, from draws that chose nothing
    num_steps: Tensor  # (B,) inner steps that each datapoint took
    converged: Tensor  # (B,) bool


@validated
def optimum(
    model: nn.Module, family: Family, x: Tensor, *starts: Tensor,
    tolerance: PositiveFloat = 0.02, max_steps: PositiveInt = 5000, window: PositiveInt = 100,
    num_particles: PositiveInt = 1, score_particles: PositiveInt = 25,
) -> Optimum:  # fmt: skip
    r"""The best q* of the family for each datapoint, by SVI to convergence.

    .. math:: \lambda^*_i = \arg\max_\lambda L(x_i, \lambda)

    Steps come in windows. After each, the mean of λ over its second half, from which most of the steps' noise is gone,
    is scored against the best λ so far under common noise, and the better is kept. Where a window gains less than
    `tolerance` the step size is lowered to a third; **a datapoint has converged when a whole window at the smallest
    step size gains it less than `tolerance`**, and takes no further step. The others go on to `max_steps`.

    The steps' noise that is left in the mean grows with the number of parameters: of a diagonal normal of 50 dimensions
    on MNIST about 0.03 nats are left to gain, which more draws a step or a longer window lower. What a family's
    datapoints share, a flow's weights say, is held still: q* is the best over λ.

    Args:
        model: Pyro model of plate `"data"`, held fixed; called with `x`, data (B, *x_shape).
        starts: λ (B, P), one or more; each datapoint starts at the best of them, and never ends at a worse one.
        tolerance: Nats a window.
        max_steps, window: Inner steps a datapoint, and between scores.
        num_particles, score_particles: Draws of z a datapoint and step, and a datapoint and score.

    Raises:
        ValueError: No start, or one of another shape.

    Reference:
        Inference Suboptimality in Variational Autoencoders (Cremer et al., 2018), arXiv:1801.03558

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> optimum(model, family, torch.ones(8, 4), torch.zeros(8, 4), max_steps=20, window=10).params.shape
    torch.Size([8, 4])
    """
    if not starts:
        raise ValueError("optimum needs a start, λ (B, P), got none; give what the guide infers")
    for start in starts:
        check_rows(family, x, params=start)
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

"""Chains along a path of densities from one that can be drawn from to the posterior."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import pyro
import torch
from torch import Tensor, nn

from ..capture import Capture, isolated
from ..capture.program import Function, Tensors
from ..families import Family
from .chunking import points_at_once
from .hmc import Chains, hmc_transition
from .unconstrained import Unconstrained

Start = Literal["q", "prior"]

STEEPNESS = 4.0  # of the schedule, as in Wu et al.


class Weighed(NamedTuple):
    """A run's log weights and acceptance probabilities, a row per chain, (C B,) each."""

    log_weights: Tensor
    acceptance: Tensor


class Annealing:
    r"""Transitions along :math:`\log f_\beta(u) = \log f_0(u) + \beta \, [\log p(x, u) - \log f_0(u)]`, β from 0 to 1.

    f_0 is q(u | λ) or the prior p(u). In the coordinates of `Unconstrained`, chains (C, B) folded into one batch, C
    outermost.

    Args:
        model: Pyro model of plate `"data"`.
        family: Turns λ into q.
        x: Data (B, *x_shape), or any of its kind.
        num_steps: T, temperatures above 0.
        num_leapfrog: Steps of a transition.
        start: f_0.

    Raises:
        ValueError: A number below 1, an unknown start, or `q` for a family that cannot score any draw.
    """

    def __init__(
        self, model: nn.Module, family: Family, x: Tensor, *, num_steps: int, num_leapfrog: int, start: Start
    ) -> None:
        for name, value in (("num_steps", num_steps), ("num_leapfrog", num_leapfrog)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if start not in get_args(Start):
            raise ValueError(f"start must be q or prior, got {start!r}")
        if start == "q" and not family.scores_any_draw:
            raise ValueError(
                f"start q needs the density of any z under q, which {type(family).__name__} lacks; set start='prior'"
            )
        self.family = family
        self.space = Unconstrained(model, x)
        self.start = start
        self.num_steps = num_steps
        self.num_leapfrog = num_leapfrog
        level = (STEEPNESS * torch.linspace(-1, 1, num_steps + 1, dtype=torch.float64)).sigmoid()
        self.betas: list[float] = ((level - level[0]) / (level[-1] - level[0])).tolist()
        self.capture = Capture(self.terms, model, family, name="the density of annealing")

    def terms(self, x: Tensor, params: Tensor, u: Tensor) -> Tensors:
        """log f_0 and log p(x, u) - log f_0 at u, (B,) each, and their gradients, (B, D) each; to capture."""
        with torch.enable_grad(), pyro.validation_enabled(False):
            u = u.detach().requires_grad_()
            prior, likelihood = self.space.log_densities(x, u)
            if self.start == "prior":
                log_start, log_weight = prior, likelihood
            else:
                log_start = self.space.log_q(self.family, params, u)
                log_weight = prior + likelihood - log_start
            slopes = [
                torch.autograd.grad(value.sum(), u, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
                for value in (log_start, log_weight)
            ]
        return log_start.detach(), log_weight.detach(), *slopes

    def rows_at_once(self, x: Tensor, params: Tensor, num_chains: int) -> int:
        """How many datapoints to anneal in one batch."""

        def run(size: int) -> None:
            rows = x[:1].expand(size, *x.shape[1:]), params[:1].expand(size, -1)
            with isolated():
                self.terms(*rows, self.space.draw_prior(rows[0]))

        return max(1, points_at_once(run, x.device) // num_chains)

    def forward(self, x: Tensor, params: Tensor, num_chains: int, step_sizes: Sequence[Tensor]) -> Weighed:
        r"""From draws of f_0: :math:`E e^{\log w} = p(x)` for each chain."""
        x, params = repeated(num_chains, x, params)
        return self._travel(x, params, self.draw_start(x, params), range(1, self.num_steps + 1), step_sizes)

    def reverse(self, x: Tensor, params: Tensor, u: Tensor, num_chains: int, step_sizes: Sequence[Tensor]) -> Weighed:
        r"""From a posterior draw u (B, D) for each x, all chains from the same: :math:`E e^{-\log w} = 1 / p(x)`."""
        x, params, u = repeated(num_chains, x, params, u)
        return self._travel(x, params, u, range(self.num_steps, 0, -1), step_sizes)

    def draw_start(self, x: Tensor, params: Tensor) -> Tensor:
        """u of draws from f_0."""
        with torch.no_grad(), pyro.validation_enabled(False):
            return self.space.draw_prior(x) if self.start == "prior" else self.space.draw_q(self.family, x, params)

    def _travel(
        self, x: Tensor, params: Tensor, u: Tensor, intervals: Sequence[int], step_sizes: Sequence[Tensor]
    ) -> Weighed:
        """Adds up the weight's share of each interval from β_{t-1} to β_t, with transitions where two meet."""
        terms = self.capture.bind(x, params, u, calls=self.num_steps * self.num_leapfrog)
        found, batch = terms(x, params, u), len(step_sizes[0]) if step_sizes else 0
        total, accepted, last = torch.zeros_like(found[0]), torch.zeros_like(found[0]), 0
        for number, t in enumerate(intervals):
            if number > 0:
                at = min(t, last)
                size = step_sizes[at - 1].repeat(len(u) // batch)
                u, found, acceptance = self.transition(terms, x, params, u, found, self.betas[at], size)
                accepted = accepted + acceptance
            total, last = total + (self.betas[t] - self.betas[t - 1]) * found[1], t
        return Weighed(total, accepted / max(1, self.num_steps - 1))

    def transition(
        self, terms: Function, x: Tensor, params: Tensor, u: Tensor, found: Tensors, beta: float, size: Tensor
    ) -> tuple[Tensor, Tensors, Tensor]:
        """Moves chains at u, with `found` of `terms` there, by steps (C B,) at β: the same there, and acceptance."""

        def chains(u: Tensor, found: Tensors) -> Chains:
            log_start, log_weight, *slopes = found
            return Chains(u, log_start + beta * log_weight, slopes[0] + beta * slopes[1], found)

        moved, acceptance = hmc_transition(
            lambda u: chains(u, terms(x, params, u)), chains(u, found), size, self.num_leapfrog
        )
        return moved.position, moved.more, acceptance


def repeated(num: int, *tensors: Tensor) -> list[Tensor]:
    """Each `num` times over: rows for as many chains."""
    return [tensor.repeat(num, *[1] * (tensor.dim() - 1)) for tensor in tensors]

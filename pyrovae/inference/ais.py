"""Annealed importance sampling."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..families import Family
from .annealing import Annealing, Start
from .frozen import frozen
from .step_sizes import tuned_step_sizes


class Annealed(NamedTuple):
    """What annealed importance sampling found."""

    log_weights: Tensor  # (C, B) nats
    acceptance: Tensor  # (B,) mean acceptance probability of the transitions

    @property
    def bound(self) -> Tensor:
        """The estimate of log p(x), (B,), in nats, which on average is below it; chains that failed weigh nothing."""
        weights = self.log_weights.nan_to_num(-math.inf, posinf=-math.inf, neginf=-math.inf)
        return weights.logsumexp(0) - math.log(len(weights))


def ais(
    model: nn.Module,
    family: Family,
    x: Tensor,
    params: Tensor,
    *,
    num_chains: int = 16,
    num_steps: int = 1000,
    num_leapfrog: int = 5,
    start: Start = "q",
) -> Annealed:
    r"""log p(x) per datapoint by annealed importance sampling with Hamiltonian transitions.

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \, [\log p(x, z_{t-1}) - \log f_0(z_{t-1})], \qquad
        z_0 \sim f_0, \quad z_t \sim \mathcal{T}_{\beta_t}(z_t \mid z_{t-1})

    :math:`E \, w = p(x)` exactly, so that the log of the chains' mean weight is below log p(x) on average, and comes
    closer the longer the path. At T = 1 it is the importance-weighted bound. Step sizes, of each datapoint and
    temperature, are tuned to an acceptance of 0.65 by a shorter batch of chains beforehand.

    Args:
        model: Pyro model of plate `"data"`.
        family: Turns λ into q.
        x: Data (B, *x_shape).
        params: λ (B, P).
        num_chains: C.
        num_steps: T.
        num_leapfrog: Steps of a transition.
        start: f_0: `q`, by far the nearer, or `prior`, which needs no density of q.

    Raises:
        ValueError: A number below 1, an unknown start, or `q` for a family that cannot score any draw.

    References:
        Annealed importance sampling (Neal, 2001), arXiv:physics/9803008
        On the quantitative analysis of decoder-based generative models (Wu et al., 2017), arXiv:1611.04273
    """
    if num_chains < 1:
        raise ValueError(f"num_chains must be >= 1, got {num_chains}")
    annealing = Annealing(model, family, x, num_steps=num_steps, num_leapfrog=num_leapfrog, start=start)

    def run(x: Tensor, params: Tensor) -> list[Annealed]:
        sizes = tuned_step_sizes(annealing, x, params, num_chains)
        return [by_chain(*annealing.forward(x, params, num_chains, sizes), num_chains)]

    return in_batches(annealing, run, num_chains, x, params)[0]


def by_chain(log_weights: Tensor, acceptance: Tensor, num_chains: int) -> Annealed:
    """The run of (C B,) rows, with a dimension for the chains."""
    return Annealed(log_weights.reshape(num_chains, -1), acceptance.reshape(num_chains, -1).mean(0))


def in_batches(
    annealing: Annealing, run: Callable[..., Sequence[Annealed]], num_chains: int, x: Tensor, *rows: Tensor
) -> list[Annealed]:
    """`run` on as many datapoints at a time as one pass takes, put together again; the model stands still."""
    model, family = annealing.space.model, annealing.family
    with torch.inference_mode(False), torch.enable_grad(), frozen(model), frozen(family):
        all_rows = [part.detach().clone() if part.is_inference() else part.detach() for part in (x, *rows)]
        size = annealing.rows_at_once(all_rows[0], all_rows[1], num_chains)
        found = [run(*part) for part in zip(*(rows.split(size) for rows in all_rows), strict=True)]
    return [
        Annealed(torch.cat([one.log_weights for one in same], 1), torch.cat([one.acceptance for one in same]))
        for same in zip(*found, strict=True)
    ]

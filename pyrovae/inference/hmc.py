"""Hamiltonian Monte Carlo, many chains at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Chains(NamedTuple):
    """Where chains are, a row each, and what is known of the density there."""

    position: Tensor  # (B, D)
    value: Tensor  # (B,) log-density, in nats, up to a constant
    slope: Tensor  # (B, D) its gradient
    more: tuple[Tensor, ...] = ()  # (B, ...) anything else that goes with the position


# Shares by which a transition's step varies. Trajectories of one length come back to where they were, or to the mirror
# image of it, in directions whose period fits.
JITTER = 0.2

Density = Callable[[Tensor], Chains]


def hmc_transition(density: Density, chains: Chains, step_size: Tensor, num_leapfrog: int) -> tuple[Chains, Tensor]:
    r"""One transition of every chain, and its acceptance probability (B,).

    .. math:: v \sim \mathcal{N}(0, I), \qquad \min(1, e^{H(u, v) - H(u', v')}), \qquad H = \tfrac12 \|v\|^2 - \log f(u)

    It leaves f invariant and is reversible whatever the step sizes, as long as they do not look at the chains. A
    proposal whose numbers are not finite is rejected, row by row.

    Args:
        density: What is known of f at positions (B, D).
        chains: Where they are.
        step_size: A row's step (B,), in units of u; varied by up to a fifth at random.
        num_leapfrog: Steps of a trajectory.

    Reference:
        MCMC using Hamiltonian dynamics (Neal, 2011), arXiv:1206.1901
    """
    spread = JITTER * (2 * torch.rand_like(step_size) - 1)
    step = (step_size * (1 + spread))[:, None]
    momentum = torch.randn_like(chains.position)
    velocity, proposal = momentum, chains
    for _ in range(num_leapfrog):
        half = velocity + step / 2 * proposal.slope
        proposal = density(proposal.position + step * half)
        velocity = half + step / 2 * proposal.slope
    change = proposal.value - chains.value - (velocity.square() - momentum.square()).sum(-1) / 2
    acceptance = change.clamp(max=0).exp().nan_to_num(0.0)  # NaN is no density
    accepted = torch.rand_like(acceptance) < acceptance
    return _where(accepted, proposal, chains), acceptance


def _where(rows: Tensor, new: Chains, old: Chains) -> Chains:
    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(rows.reshape(-1, *[1] * (a.dim() - 1)), a, b)

    position, value, slope = (choose(a, b) for a, b in zip(new[:3], old[:3], strict=True))
    return Chains(position, value, slope, tuple(map(choose, new.more, old.more)))

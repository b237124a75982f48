"""Hamiltonian Monte Carlo on a model's latent sites, many chains at once."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import biject_to

from ..distributions import full_precision
from ..families import Family
from ..models.latent_sites import latent_sites
from .elbo import ELBO, sampler, scored


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

    It leaves f invariant and is reversible whatever the step sizes (B,), in units of u, as long as they do not look at
    the chains; they are varied by up to a fifth at random. A proposal whose numbers are not finite is rejected, row by
    row. `density` tells what is known of f at positions (B, D), and `chains` where they are.

    Reference:
        MCMC using Hamiltonian dynamics (Neal, 2011), arXiv:1206.1901

    >>> normal = lambda u: Chains(u, -u.square().sum(-1) / 2, -u)
    >>> moved, acceptance = hmc_transition(normal, normal(torch.zeros(5, 2)), torch.full((5,), 0.1), num_leapfrog=3)
    >>> bool((acceptance > 0.99).all())
    True
    """
    step = (step_size * (1 + JITTER * (2 * torch.rand_like(step_size) - 1)))[:, None]
    momentum = torch.randn_like(chains.position)
    velocity, proposal = momentum, chains
    for _ in range(num_leapfrog):
        half = velocity + step / 2 * proposal.slope
        proposal = density(proposal.position + step * half)
        velocity = half + step / 2 * proposal.slope
    change = proposal.value - chains.value - (velocity.square() - momentum.square()).sum(-1) / 2
    acceptance = change.clamp(max=0).exp().nan_to_num(0.0)  # NaN is no density
    accepted = torch.rand_like(acceptance) < acceptance

    def choose(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(accepted.reshape(-1, *[1] * (new.dim() - 1)), new, old)

    position, value, slope, *more = map(choose, (*proposal[:3], *proposal.more), (*chains[:3], *chains.more))
    return Chains(position, value, slope, tuple(more)), acceptance


class Unconstrained:
    r"""Coordinates u (B, D) of a model's latent sites, flattened and side by side: z = T(u), T site by site.

    Densities in u are those of z times :math:`|\det J_T(u)|`; the sites' supports choose T. The model runs once on x.

    Raises:
        ValueError: A latent site that is discrete, or belongs to no datapoint; sites of model and family that differ.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.model = model
        self.sites = latent_sites(model, x)

    def coordinates(self, values: Mapping[str, Tensor]) -> Tensor:
        """u (B, D) of values of the sites."""
        free = [biject_to(site.support).inv(values[name]) for name, site in self.sites.items()]
        return torch.cat([u.reshape(u.shape[0], -1) for u in free], -1)

    def values(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The sites' values at u (B, D), and log |det J| (B,)."""
        found, log_det, batch = {}, u.new_zeros(u.shape[0]), u.shape[0]
        blocks = u.split([site.num_free for site in self.sites.values()], -1)
        for (name, site), block in zip(self.sites.items(), blocks, strict=True):
            bijection = biject_to(site.support)
            free = block.reshape(batch, *bijection.inverse_shape(site.event_shape))
            found[name] = bijection(free)
            log_det = log_det + bijection.log_abs_det_jacobian(free, found[name]).reshape(batch, -1).sum(-1)
        return found, log_det

    def log_densities(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(u) and log p(x | u), (B,) each, from the model's own program."""
        values, log_det = self.values(u)
        by_site = _scores(self.model, values, x)
        prior = sum((by_site.pop(name) for name in self.sites), log_det)
        return prior, sum(by_site.values(), torch.zeros_like(log_det))

    def log_q(self, family: Family, params: Tensor, u: Tensor) -> Tensor:
        """log q(u | λ), (B,), from the family's own program."""
        values, log_det = self.values(u)
        return sum(_scores(family.sample, values, params).values(), log_det)

    def draw_q(self, family: Family, x: Tensor, params: Tensor) -> Tensor:
        """u (B, D) of draws from q."""
        guide_trace = ELBO(path_gradient=False).traces(self.model, sampler(family, params), x)[1]
        return self.coordinates({name: guide_trace.nodes[name]["value"] for name in self.sites})

    def draw_prior(self, x: Tensor) -> Tensor:
        """u (B, D) of draws from the prior."""
        trace: Any = poutine.trace(self.model).get_trace(x)
        return self.coordinates({name: trace.nodes[name]["value"] for name in self.sites})


def _scores(program: Callable, values: dict[str, Tensor], argument: Tensor) -> dict[str, Tensor]:
    """Log-densities (B,) of the sites of a Pyro program, by name, with the values given in the place of draws."""
    trace = poutine.trace(poutine.condition(program, data=values)).get_trace(argument)
    with full_precision(argument):
        trace.compute_log_prob(scored)
    return {name: site["log_prob"] for name, site in trace.nodes.items() if scored(name, site)}

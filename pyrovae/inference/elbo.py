"""The evidence lower bound, and its two terms for each datapoint."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import pyro
import torch
from pydantic import PositiveInt
from torch import Tensor

from ..distributions import full_precision
from ..families import Family
from .noise import noise_state, set_noise_state
from .objective import Objective, kl_of_site, scored_sites

Result = TypeVar("Result")


class ELBO(Objective):
    r"""`pyro.infer.Trace_ELBO` for reparameterised guides, with β, and without `.item()`.

    .. math::
        L_\beta = E_{q(z \mid x)} [\log p(x \mid z)] - \beta \, KL(q(z \mid x) \,\|\, p(z))

    summed over the batch, in nats. At β = 1 and without path gradients, values and gradients are those of
    `Trace_ELBO`, bit for bit.

    Args:
        beta: Weight of the latent sites' log-densities, on both sides.
        num_particles: Draws of z a datapoint, in one vectorised pass.
        path_gradient: Score z under q with q held fixed ("sticking the landing"). The value is the same, the gradient
            loses the term :math:`E_q \nabla \log q = 0` and its noise.

    Raises:
        ValueError: `num_particles` below 1, or a guide site without `rsample`.

    References:
        beta-VAE (Higgins et al., 2017), openreview.net/forum?id=Sy2fzU9gl
        Sticking the Landing (Roeder et al., 2017), arXiv:1703.09194
    """

    def __init__(
        self, beta: float | Tensor = 1.0, *, num_particles: PositiveInt = 1, path_gradient: bool = True
    ) -> None:
        super().__init__(num_particles, beta, path_gradient)

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        return self.loss_of(*self.traces(model, guide, *args, **kwargs))

    def loss_of(self, model_trace: Any, guide_trace: Any) -> Tensor:
        """The loss from `traces`."""
        elbo: Any = 0.0
        for _, site in scored_sites(model_trace):
            elbo = elbo + site["log_prob_sum"]
        for _, site in scored_sites(guide_trace):
            elbo = elbo - site["log_prob_sum"]
        return -elbo / self.num_particles


class Terms(NamedTuple):
    """The two sides of the ELBO, per datapoint, in nats."""

    recon: Tensor  # (B,) E_q log p(x | z)
    kl: Tensor  # (B,) E_q [log q(z | x) - log p(z)]

    def elbo(self, beta: float | Tensor = 1.0) -> Tensor:
        """recon - β kl, shape (B,)."""
        return self.recon - beta * self.kl


def elbo_terms(model: Callable, family: Family, x: Tensor, params: Tensor, num_particles: int = 1) -> Terms:
    """Monte Carlo estimate of the ELBO's terms at λ = `params`, per datapoint; takes no gradient.

    Args:
        model: Pyro model of plate `"data"`; called with `x`.
        family: Turns λ into q.
        x: Data (B, *x_shape).
        params: λ (B, P).
        num_particles: Draws of z a datapoint.
    """
    recon, kl = x.new_zeros(x.shape[0]), x.new_zeros(x.shape[0])
    elbo = ELBO(num_particles=num_particles, path_gradient=False)
    with torch.no_grad(), pyro.validation_enabled(False):
        model_trace, guide_trace = elbo.traces(model, lambda x: family.sample(params), x)
        with full_precision(x):
            for name, site in scored_sites(model_trace):
                if site["is_observed"]:
                    recon = recon + site["log_prob"].reshape(-1, x.shape[0]).mean(0)
                else:
                    kl = kl + kl_of_site(guide_trace.nodes[name], site).reshape(-1, x.shape[0]).mean(0)
    return Terms(recon, kl)


def common_noise(function: Callable[[Tensor], Result], *params: Tensor) -> list[Result]:
    """`function` of several λ, each from the same random draws, so that differences are precise."""
    device = params[0].device
    state = noise_state(device)
    results = []
    for row in params:
        set_noise_state(state, device)
        results.append(function(row))
    return results


def common_noise_terms(
    model: Callable, family: Family, x: Tensor, *params: Tensor, num_particles: int = 1
) -> list[Terms]:
    """`elbo_terms` at several λ under common noise."""
    return common_noise(lambda row: elbo_terms(model, family, x, row, num_particles), *params)

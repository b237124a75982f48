"""What teaches the proposal of λ₀ when no gradient comes back through refinement."""

from typing import Literal

import torch
from pyro import poutine
from torch import Tensor

from ..capture import isolated
from ..distributions import full_precision
from ..families import Family
from .elbo import ELBO
from .frozen import frozen
from .objective import kl_of_site, scored, scored_sites
from .refiner import Inferred

EncoderLoss = Literal["hybrid", "kl"]


def encoder_loss(
    kind: EncoderLoss, model: torch.nn.Module, family: Family, x: Tensor, inferred: Inferred, beta: float | Tensor
) -> Tensor:
    r"""A loss for λ₀ alone, summed over the batch, in nats.

    `hybrid` has the gradient of the negative ELBO at λ₀, the model held fixed; where the loop's first step estimated
    it, that estimate serves, and hybrid costs nothing. `kl` is :math:`KL(q_{\lambda_0} \| q_{\lambda_K})` with λ_K
    held fixed.

    Reference:
        Semi-Amortized Variational Autoencoders (Kim et al., 2018), section 5 (VAE+SVI+KL), arXiv:1802.02550
    """
    if kind == "hybrid" and inferred.slope is not None:
        return (inferred.slope * inferred.init).sum()
    # A calculation within a guide, not part of its trace. A family's own weights, a flow's say, learn from λ_K's ELBO.
    with frozen(model), frozen(family), isolated():
        if kind == "hybrid":
            return ELBO(beta).differentiable_loss(model, lambda x: family.sample(inferred.init), x)
        return _kl(family, inferred.init, inferred.params.detach())


def _kl(family: Family, init: Tensor, refined: Tensor) -> Tensor:
    """KL(q_λ₀ ‖ q_λK) site by site, each given a draw of those before it."""
    start = poutine.trace(family.sample).get_trace(init)
    end = poutine.trace(poutine.replay(family.sample, trace=start)).get_trace(refined)
    with full_precision(init):
        for trace in (start, end):
            trace.compute_log_prob(scored)
        kl = [kl_of_site(site, end.nodes[name]) for name, site in scored_sites(start)]
    return torch.stack(kl).sum()

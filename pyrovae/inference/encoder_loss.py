"""What teaches the proposal of λ₀ when no gradient comes back through refinement."""

from typing import Literal

import torch
from torch import Tensor

from ..capture import isolated
from ..families import Family
from .elbo import ELBO
from .frozen import frozen
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
    with frozen(model), frozen(family):  # a family's own weights, a flow's say, learn from the ELBO at λ_K
        if kind == "hybrid":
            with isolated():  # a calculation within a guide, not part of its trace
                elbo = ELBO(beta)
                return elbo.differentiable_loss(model, lambda x: family.sample(inferred.init), x)
        init, refined = family(inferred.init), family(inferred.params.detach())
        try:
            return torch.distributions.kl_divergence(init, refined).sum()
        except NotImplementedError:  # no closed form: one draw
            z = init.rsample()
            return (init.log_prob(z) - refined.log_prob(z)).sum()

"""A proposal and a loop."""

from abc import abstractmethod
from typing import Literal

import torch
from pyro import poutine
from torch import Tensor, nn

from ..capture import isolated
from ..distributions import full_precision
from ..families import Family
from ..inference import ELBO, Inferred, Refiner, frozen, kl_of_site, scored_sites
from ..inference.elbo import sampler
from .base import Guide

EncoderLoss = Literal["hybrid", "kl"]


class RefinedGuide(Guide):
    r"""λ_K = refine(λ₀): a proposal `initial(x)` improved by a refiner.

    The ELBO at λ_K teaches the model, and through a loop with another `gradient` than `stopped` what proposes λ₀. Where
    no gradient comes back, `encoder_loss` teaches that, without a pass of its own where the loop has taken ∇L at λ₀:

    | `encoder_loss` | gradient of |
    |---|---|
    | `hybrid` | the negative ELBO at λ₀, model held fixed: :math:`\langle -\nabla L(\lambda_0), \lambda_0 \rangle` |
    | `kl` | :math:`KL(q_{\lambda_0} \| q_{\lambda_K})`, λ_K held fixed |

    Args:
        model: The model that λ is refined under.
        family: Turns λ into q.
        refiner: The loop.
        encoder_loss: Not used if λ_K is attached to λ₀.

    Raises:
        ValueError: A refiner that cannot refine this family under this model.

    Reference:
        Semi-Amortized Variational Autoencoders (Kim et al., 2018), section 5 (VAE+SVI+KL), arXiv:1802.02550
    """

    def __init__(self, model: nn.Module, family: Family, refiner: Refiner, encoder_loss: EncoderLoss) -> None:
        super().__init__(family)
        refiner.check(model, family)
        self._model = (model,)  # in a tuple: known to the guide, but no submodule of it
        self.refiner = refiner
        self.encoder_loss = encoder_loss

    @abstractmethod
    def initial(self, x: Tensor) -> Tensor:
        """λ₀ (B, P)."""

    def infer(
        self,
        x: Tensor,
        beta: float | Tensor = 1.0,
        record: bool = False,
        start: Tensor | None = None,
        prior: Tensor | None = None,
    ) -> Inferred:
        """As `Guide.infer`; from a carried start no gradient comes back to the proposal, so none is taken."""
        init = self.initial(x)
        first = init if start is None else torch.where(start.isnan(), init, start)
        with torch.set_grad_enabled(torch.is_grad_enabled() and start is None):
            found = self.refiner(self._model[0], self.family, x, first, beta, record, prior)
        slope = found.slope if start is None else None  # not at λ₀, if the loop began elsewhere
        return self.taught(x, found._replace(init=init, slope=slope), beta, prior)

    def taught(self, x: Tensor, inferred: Inferred, beta: float | Tensor, prior: Tensor | None = None) -> Inferred:
        """`inferred` with what teaches the proposal, where no gradient comes back through the loop."""
        init = inferred.init
        if inferred.attached or not (init.requires_grad and torch.is_grad_enabled()):
            return inferred
        if self.encoder_loss == "hybrid" and inferred.slope is not None:
            return inferred._replace(teaching=((inferred.slope * init).sum(-1),))
        model, family = self._model[0], self.family
        # No part of the guide's trace. A family's own weights, a flow's say, learn from the ELBO at λ_K.
        with frozen(model), frozen(family), isolated():
            if self.encoder_loss == "hybrid":
                objective = (self.refiner.objective or ELBO()).scaled(beta, prior=sampler(family, prior))
                loss = objective.differentiable_loss(model, sampler(family, init), x)
            else:
                loss = _kl(family, init, inferred.params.detach())
        return inferred._replace(teaching=(loss,))


def _kl(family: Family, init: Tensor, refined: Tensor) -> Tensor:
    """KL(q_λ₀ ‖ q_λK), summed over the batch, site by site, each given a draw of those before it."""
    start = poutine.trace(family.sample).get_trace(init)
    end = poutine.trace(poutine.replay(family.sample, trace=start)).get_trace(refined)
    with full_precision(init):
        kl = [kl_of_site(site, end.nodes[name]) for name, site in scored_sites(start)]
    return torch.stack(kl).sum()

"""A proposal and a loop."""

from abc import abstractmethod
from typing import Literal, get_args

import pyro
import torch
from pyro import poutine
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from ..capture import isolated
from ..distributions import full_precision
from ..families import Family
from ..inference import Refiner
from ..inference.elbo import ELBO, frozen, kl_of_site, scored, scored_sites
from ..inference.refiner import Inferred
from .base import Guide

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


class RefinedGuide(Guide):
    r"""λ_K = refine(λ₀): a proposal `initial(x)` improved by a refiner.

    The ELBO at λ_K teaches the model, and through an `UnrolledRefiner` what proposes λ₀. Where no gradient comes back
    through the loop, that learns from `encoder_loss`, which enters the guide as a `pyro.factor` of value zero, so the
    reported ELBO stays the ELBO.

    Args:
        model: The model that λ is refined under.
        family: Turns λ into q.
        refiner: The loop.
        encoder_loss: `hybrid` or `kl`; see `pyrovae.inference.encoder_loss`. Not used if λ_K is attached to λ₀.

    Raises:
        ValueError: Unknown `encoder_loss`, or a refiner that cannot refine this family under this model.
    """

    def __init__(
        self, model: nn.Module, family: Family, refiner: Refiner, *, encoder_loss: EncoderLoss = "hybrid"
    ) -> None:
        super().__init__(family)
        if encoder_loss not in get_args(EncoderLoss):
            raise ValueError(f"encoder_loss must be hybrid or kl, got {encoder_loss!r}")
        refiner.check(model, family)
        self._model = (model,)  # in a tuple: known to the guide, but no submodule of it
        self.refiner = refiner
        self.encoder_loss = encoder_loss

    @abstractmethod
    def initial(self, x: Tensor) -> Tensor:
        """λ₀ (B, P)."""

    def infer(
        self, x: Tensor, beta: float | Tensor = 1.0, record: bool = False, start: Tensor | None = None
    ) -> Inferred:
        """As `Guide.infer`; the loop starts at `start` (B, P), if given, and at the proposal where that is NaN.

        From elsewhere no gradient comes back to the proposal, so the loop is then run without.
        """
        init = self.initial(x)
        first = init if start is None else torch.where(start.isnan(), init, start)
        with torch.set_grad_enabled(torch.is_grad_enabled() and start is None):
            inferred = self.refiner(self._model[0], self.family, x, first, beta, record)
        slope = inferred.slope if start is None else None  # not at λ₀, if the loop began elsewhere
        return inferred._replace(init=init, slope=slope)

    def teach(self, x: Tensor, inferred: Inferred, beta: float | Tensor) -> None:
        if inferred.attached:
            return  # nothing was refined, or gradients come back through the loop: the ELBO itself teaches the proposal
        if torch.is_grad_enabled() and am_i_wrapped():  # within inference, that is
            loss = encoder_loss(self.encoder_loss, self._model[0], self.family, x, inferred, beta)
            pyro.factor("encoder_loss", loss - loss.detach(), has_rsample=True)

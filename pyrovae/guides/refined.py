"""A proposal and a loop."""

from abc import abstractmethod
from typing import get_args

import pyro
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from ..families import Family
from ..inference import EncoderLoss, Inferred, Refiner, encoder_loss
from .base import Guide


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

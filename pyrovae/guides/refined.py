"""A proposal, from an encoder or one for all, and a loop that improves it."""

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
from ..validation import validated
from .base import Beta, Guide, Rows

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
        model: The model that λ is refined under; `family` turns λ into q.
        refiner: The loop, `SVIRefiner` say.
        encoder_loss: Not used if λ_K is attached to λ₀.

    Raises:
        ValueError: A refiner that cannot refine this family under this model.

    Reference:
        Semi-Amortized Variational Autoencoders (Kim et al., 2018), section 5 (VAE+SVI+KL), arXiv:1802.02550

    >>> issubclass(SVIGuide, RefinedGuide), issubclass(SemiAmortizedGuide, RefinedGuide)
    (True, True)
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
        self, x: Tensor, beta: Beta = 1.0, record: bool = False, start: Rows = None, prior: Rows = None
    ) -> Inferred:
        """As `Guide.infer`; from a carried start no gradient comes back to the proposal, so none is taken."""
        init = self.initial(x)
        first = init if start is None else torch.where(start.isnan(), init, start)
        with torch.set_grad_enabled(torch.is_grad_enabled() and start is None):
            found = self.refiner(self._model[0], self.family, x, first, beta, record, prior)
        slope = found.slope if start is None else None  # not at λ₀, if the loop began elsewhere
        return self.taught(x, found._replace(init=init, slope=slope), beta, prior)

    def taught(self, x: Tensor, inferred: Inferred, beta: Beta, prior: Rows = None) -> Inferred:
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


class SemiAmortizedGuide(RefinedGuide):
    r"""λ₀ = encoder(x), then K refinement steps a datapoint.

    `encoder` is a network from (..., *x_shape) to (..., P); other arguments and errors are those of `RefinedGuide`.

    References:
        Semi-Amortized Variational Autoencoders (Kim et al., 2018), arXiv:1802.02550
        On the difficulty of training with SVI (Krishnan et al., 2018), arXiv:1710.06085

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> encoder = pv.nets.MLP((4,), (family.num_params,))
    >>> guide = pv.SemiAmortizedGuide(model, family, encoder, pv.SVIRefiner(num_steps=3))
    >>> guide.infer(torch.ones(8, 4), record=True).path.shape  # λ₀ ... λ_K
    torch.Size([4, 8, 4])
    """

    @validated
    def __init__(
        self, model: nn.Module, family: Family, encoder: nn.Module, refiner: Refiner,
        *, encoder_loss: EncoderLoss = "hybrid",
    ) -> None:  # fmt: skip
        super().__init__(model, family, refiner, encoder_loss)
        self.encoder = encoder

    def initial(self, x: Tensor) -> Tensor:
        return self.encoder(x).to(x.dtype)


class SVIGuide(RefinedGuide):
    r"""No encoder: λ₀ is one learned row for all datapoints, refined by many steps.

    Arguments and errors are those of `RefinedGuide`; the family gives λ₀ its first value.

    Reference:
        Stochastic Variational Inference (Hoffman et al., 2013), arXiv:1206.7051

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> pv.SVIGuide(model, family, pv.SVIRefiner(num_steps=20)).infer(torch.ones(8, 4)).params.shape
    torch.Size([8, 4])
    """

    @validated
    def __init__(
        self, model: nn.Module, family: Family, refiner: Refiner, *, encoder_loss: EncoderLoss = "hybrid"
    ) -> None:
        super().__init__(model, family, refiner, encoder_loss)
        self.init_params = nn.Parameter(family.init_params())

    def initial(self, x: Tensor) -> Tensor:
        return self.init_params.expand(x.shape[0], -1)


def _kl(family: Family, init: Tensor, refined: Tensor) -> Tensor:
    """KL(q_λ₀ ‖ q_λK), summed over the batch, site by site, each given a draw of those before it."""
    start = poutine.trace(family.sample).get_trace(init)
    end = poutine.trace(poutine.replay(family.sample, trace=start)).get_trace(refined)
    with full_precision(init):
        kl = [kl_of_site(site, end.nodes[name]) for name, site in scored_sites(start)]
    return torch.stack(kl).sum()

"""What a guide is."""

from abc import abstractmethod

import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from ..capture import isolated
from ..families import Family
from ..inference import Inferred
from ..inference.elbo import Beta, Rows


class Guide(PyroModule):
    """A way to find λ; as a Pyro program, a guide for a model of plate `"data"` and the family's sites.

    A new guide writes `infer`; `family` turns λ into q. `pyrovae.fit` trains it, or any torch optimizer on
    `Trace_ELBO()(model, guide)(x)`.

    >>> import pyrovae as pv
    >>> class Fixed(pv.Guide):
    ...     def infer(self, x, beta=1.0, record=False, start=None, prior=None):
    ...         params = self.family.init_params().expand(x.shape[0], -1)
    ...         return pv.Inferred(params, params)
    >>> Fixed(pv.DiagonalNormal(2))(torch.ones(8, 4)).shape  # a draw of z for each datapoint
    torch.Size([8, 2])
    """

    def __init__(self, family: Family) -> None:
        super().__init__()
        self.family = family

    @abstractmethod
    def infer(
        self, x: Tensor, beta: Beta = 1.0, record: bool = False, start: Rows = None, prior: Rows = None
    ) -> Inferred:
        """Finds λ for data `x` (B, *x_shape); guides without a loop leave the other arguments out.

        What the ELBO at λ_K cannot teach goes into `Inferred.teaching`, a sequence of losses.

        Args:
            beta: Weight of the KL term.
            record: Keep the path.
            start: λ (B, P) carried from elsewhere, the frame before say, to start at; at the proposal where it is NaN.
            prior: λ (B, P) carried likewise, whose q takes the place of the model's p(z).
        """

    def forward(self, x: Tensor, inferred: Inferred | None = None, beta: Beta = 1.0) -> Tensor:
        """Samples z ~ q(z | x), shape (..., B, D); `inferred`, if at hand, saves inferring again.

        What teaches enters as a `pyro.factor` of value zero, so that the reported ELBO stays the ELBO.
        """
        if inferred is None:
            with isolated():  # an inner loop's sites and plates are no part of this guide's trace
                inferred = self.infer(x, beta)
        if inferred.teaching and torch.is_grad_enabled() and am_i_wrapped():  # within inference, that is
            loss = torch.stack([loss.sum() for loss in inferred.teaching]).sum()
            pyro.factor("teaching", loss - loss.detach(), has_rsample=True)
        return self.family.sample(inferred.params)

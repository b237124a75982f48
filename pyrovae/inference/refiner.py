"""What a refiner is, and what inference returns."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from ..families import Family
from .elbo import Terms


class Inferred(NamedTuple):
    """The outcome of inference for a batch."""

    init: Tensor  # (B, P) λ₀, attached to what proposed it
    params: Tensor  # (B, P) λ_K
    terms_init: Terms | None = None  # at λ₀ and at λ_K, under common noise, where a refiner scored them
    terms: Terms | None = None
    reverted: Tensor | None = None  # (B,) datapoints that kept λ₀ because refinement made them worse
    path: Tensor | None = None  # (K + 1, B, P) λ₀ ... λ_K before any was reverted, on request
    slope: Tensor | None = None  # (B, P) an unbiased estimate of the gradient of -L_β at λ₀, where a refiner took one
    surrogate: Tensor | None = None  # (B,) of no meaning but its gradient, which teaches what the ELBO at λ_K cannot

    @property
    def attached(self) -> bool:
        """Whether gradients at λ_K reach what proposed λ₀, so that the ELBO itself teaches it."""
        return self.params is self.init or self.params.requires_grad


class Refiner(ABC):
    """A loop that improves λ: state in, result out, nothing kept between calls."""

    def check(self, model: nn.Module, family: Family) -> None:  # noqa: B027 - most refine anything
        """Raises `ValueError` where this loop cannot refine λ of `family` under `model`, with the reason."""

    @abstractmethod
    def __call__(
        self,
        model: nn.Module,
        family: Family,
        x: Tensor,
        params: Tensor,
        beta: float | Tensor = 1.0,
        record: bool = False,
    ) -> Inferred:
        """Improves λ₀ = `params` (B, P) for data `x` (B, *x_shape) under the ELBO with weight β.

        Args:
            model: Pyro model, held fixed.
            family: Turns λ into q.
            x: Data.
            params: λ₀.
            beta: Weight of the KL term.
            record: Keep the path.
        """


def check_rows(family: Family, x: Tensor, params: Tensor) -> None:
    """Raises `ValueError` unless λ has a row for each datapoint."""
    expected = len(x), family.num_params
    if params.shape != expected:
        raise ValueError(f"params must be {expected}, a row of λ for each of x, got {tuple(params.shape)}")

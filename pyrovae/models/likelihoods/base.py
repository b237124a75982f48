"""What a likelihood is."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pyro.distributions as dist
from torch import Tensor, nn


class Likelihood(nn.Module, ABC):
    """p(x | h), independent over the event dimensions of x given h.

    Args:
        event_dim: Number of rightmost dimensions of h that make one datapoint: 3 for images (C, H, W).

    Attributes:
        support: Constraint on a datapoint's entries.
        values: The same in words.
    """

    support: ClassVar[Any]
    values: ClassVar[str] = ""

    def __init__(self, event_dim: int = 3) -> None:
        super().__init__()
        self.event_dim = event_dim

    @classmethod
    def supports(cls, x: Tensor) -> Tensor:
        """Which entries of `x` have a density, bool, as `x`; none that is not finite does."""
        return cls.support.check(x) & x.isfinite()  # the reals as a constraint take infinity in

    @classmethod
    def described(cls) -> str:
        """The support in words, for errors."""
        return f"the support of {cls.__name__}, {cls.values or cls.support}"

    @classmethod
    def check(cls, x: Tensor) -> None:
        """Raises `ValueError` where `x` has an entry without density."""
        bad = ~cls.supports(x)
        if bad.any():
            raise ValueError(f"value {x[bad][0].item():.4g} is outside {cls.described()}")

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return self.elementwise(h).to_event(self.event_dim)

    @abstractmethod
    def elementwise(self, h: Tensor) -> dist.TorchDistribution:
        """The distribution of each entry of x, batch shape h.shape."""

    def information(self, h: Tensor) -> Tensor:
        r"""The Fisher information of each entry of h, as h, :math:`E_x [(\partial_h \log p(x \mid h))^2]`.

        By default the variance of x, which is right where h is the natural parameter; others override this.
        """
        return self.elementwise(h).variance

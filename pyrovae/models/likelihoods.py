"""Likelihoods p(x | h): modules that turn the decoder's output h (..., *x_shape) into a distribution."""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ..validation import NonNegativeInt, PositiveFloat, validated

__all__ = ["Bernoulli", "ContinuousBernoulli", "Likelihood", "Normal", "Poisson"]

_LEAST = 1e-6  # a mean that `link` takes for zero: of data that are all dark, or silent


class Likelihood(nn.Module, ABC):
    """p(x | h), independent over the event dimensions of x given h, which `event_dim` counts: 3 for images (C, H, W).

    `support` is a constraint on a datapoint's entries, and `values` the same in words.

    >>> class Exponential(Likelihood):
    ...     support = constraints.nonnegative
    ...     def elementwise(self, h):
    ...         return dist.Exponential(h.exp())
    >>> Exponential(event_dim=1)(torch.zeros(7, 40)).log_prob(torch.ones(7, 40)).shape
    torch.Size([7])
    """

    support: ClassVar[Any]
    values: ClassVar[str] = ""

    @validated
    def __init__(self, event_dim: NonNegativeInt = 3) -> None:
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

    def link(self, mean: Tensor) -> Tensor | None:
        """The h at which E[x | h] is `mean`, as `mean`, of any values of x's range; None, by default, if not known."""
        return None


class Bernoulli(Likelihood):
    r"""x ∈ {0, 1}, P(x = 1 | h) = sigmoid(h).

    >>> Bernoulli(event_dim=1)(torch.zeros(3)).mean
    tensor([0.5000, 0.5000, 0.5000])
    """

    support = constraints.boolean
    values = "0 and 1"

    def elementwise(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=h)

    def link(self, mean: Tensor) -> Tensor:
        return mean.clamp(_LEAST, 1 - _LEAST).logit()


_LANGEVIN = 1 / math.tanh(7.5) - 1 / 7.5


class ContinuousBernoulli(Likelihood):
    r"""x ∈ [0, 1] with density C(λ) λˣ (1 - λ)¹⁻ˣ, λ = sigmoid(h): the Bernoulli formula, normalised.

    Reference:
        The continuous Bernoulli (Loaiza-Ganem & Cunningham, 2019), arXiv:1907.06845

    >>> ContinuousBernoulli(event_dim=1)(torch.zeros(3)).log_prob(torch.rand(3)).abs() < 1e-6
    tensor(True)
    """

    support = constraints.unit_interval
    values = "[0, 1]"

    def elementwise(self, h: Tensor) -> dist.TorchDistribution:
        return dist.ContinuousBernoulli(logits=h)

    def information(self, h: Tensor) -> Tensor:
        # The variance, but torch's loses all its digits near h = 0 in float32. Near 0, its Taylor series.
        near = 1 / 12 - h**2 / 240 + h**4 / 6048 - h**6 / 172800
        return torch.where(h.abs() < 0.5, near, 1 / h**2 - 0.25 / (h / 2).sinh() ** 2)

    def link(self, mean: Tensor) -> Tensor:
        # E[x | h] = (1 + L(h / 2)) / 2, with L(y) = coth y - 1 / y. Cohen's rational inverse of L (1991), off by 5 % at
        # most, then Newton's method, whose slope is the variance. Beyond |h| = 15 torch's float32 sees no difference.
        y = (2 * mean.double() - 1).clamp(-_LANGEVIN, _LANGEVIN)  # L(h / 2)
        h = 2 * y * (3 - y**2) / (1 - y**2)
        for _ in range(4):
            at = torch.where(h.abs() < 1e-3, h / 6, 1 / (h / 2).tanh() - 2 / h)
            h = h + (y - at) / 2 / self.information(h)
        return h.to(mean.dtype)


class Normal(Likelihood):
    r"""x | h ~ N(h, σ² I).

    Args:
        scale: σ, or its first value; same units as x.
        learn_scale: Learn σ, one number for all entries, by maximum likelihood.

    >>> Normal(event_dim=1, scale=0.5)(torch.zeros(3)).variance
    tensor([0.2500, 0.2500, 0.2500])
    """

    support = constraints.real
    values = "finite numbers"
    log_scale: Tensor

    @validated
    def __init__(self, event_dim: NonNegativeInt = 3, *, scale: PositiveFloat = 1.0, learn_scale: bool = False) -> None:
        super().__init__(event_dim)
        log_scale = torch.tensor(math.log(scale))
        if learn_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def elementwise(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Normal(h, self.log_scale.exp())

    def information(self, h: Tensor) -> Tensor:
        return (-2 * self.log_scale).exp().expand_as(h)

    def link(self, mean: Tensor) -> Tensor:
        return mean


MAX_LOG_RATE = 15.0


class Poisson(Likelihood):
    r"""x ∈ {0, 1, 2, ...}, rate exp(h) counts an entry; h is capped at 15 (3 million counts).

    >>> Poisson(event_dim=1)(torch.tensor([0.0, 1.0])).mean
    tensor([1.0000, 2.7183])
    """

    support = constraints.nonnegative_integer
    values = "0, 1, 2, ..."

    def elementwise(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(h.clamp(max=MAX_LOG_RATE).exp())

    def information(self, h: Tensor) -> Tensor:
        return super().information(h) * (h <= MAX_LOG_RATE)  # the cap has no slope

    def link(self, mean: Tensor) -> Tensor:
        return mean.clamp(min=_LEAST).log().clamp(max=MAX_LOG_RATE)

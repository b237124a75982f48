"""A normal distribution, bent by autoregressive transforms."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from .autoregressive import Autoregressive

OnePass = Literal["sampling", "density"]


class _Draw(NamedTuple):
    z: Tensor
    noise: Tensor
    log_prob: Tensor


class FlowDistribution(TorchDistribution):
    r"""z = μ + s ⊙ T(ε), ε ~ N(0, I), with T a chain of autoregressive transforms, entries reversed after each.

    .. math:: \log q(z) = \log \mathcal{N}(\varepsilon \mid 0, I) - \log |\det \partial T / \partial \varepsilon|
              - \sum_d \log s_d

    One way through T takes one pass of its networks, `sampling` (inverse autoregressive) or `density` (masked), and the
    other D passes, each after the other. The last draw is remembered with its ε, so scoring it is free either way.

    Args:
        loc: μ (..., D).
        scale: s (..., D).
        transforms: T, or where density is the way of one pass, its inverse from last to first.
        noise: Standardised draws (M, D) for `mean` and `variance`, which have no closed form.
        one_pass: The way that takes one pass.

    Reference:
        Fast and Unified Path Gradient Estimators for Normalizing Flows (Vaitl et al., 2024), arXiv:2403.15881

    >>> import pyrovae as pv
    >>> q = pv.Flow(3)(torch.randn(4, 38))
    >>> q.log_prob(q.rsample((2,))).shape
    torch.Size([2, 4])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, loc: Tensor, scale: Tensor, transforms: Sequence[Autoregressive], noise: Tensor, one_pass: OnePass
    ) -> None:
        self.loc, self.scale, self.transforms = loc, scale, tuple(transforms)
        self.one_pass, self._noise = one_pass, noise
        self._path_only = False  # whether the parameters are held fixed, for a gradient by z's own path
        self._draw: _Draw | None = None
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    def expand(self, batch_shape: Sequence[int], _instance: "FlowDistribution | None" = None) -> "FlowDistribution":
        new = self._get_checked_instance(FlowDistribution, _instance)
        new.__dict__.update(vars(self))
        new._draw, new._batch_shape = None, torch.Size(batch_shape)  # parameters broadcast as they are
        return new

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.transport(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))

    def transport(self, noise: Tensor) -> Tensor:
        """The draw z (..., D) that ε = `noise` becomes; remembered."""
        u, log_det = self._forward(noise)
        z = self.loc + self.scale * u
        self._draw = _Draw(z, noise, _standard_normal(noise) - log_det - self.scale.log().sum(-1))
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        draw = self._draw
        if draw is not None and value is draw.z:
            if not self._path_only:
                return draw.log_prob
            if not (torch.is_grad_enabled() and value.requires_grad):
                return draw.log_prob.detach()
            if self.one_pass == "sampling":  # not by the way back, which takes D passes
                path = self._score(draw.noise) * (value - value.detach())  # zero, with the gradient of log q(z)
                return draw.log_prob.detach() + path.sum(-1)
        noise, log_det = self._backward((value - self.loc) / self.scale)
        return _standard_normal(noise) - log_det - self.scale.log().sum(-1)

    def held_fixed(self) -> "FlowDistribution":
        """The same distribution with fixed parameters; what it remembers stays, and its path gradient is cheap."""
        new = self.expand(self.batch_shape)
        new.loc, new.scale, new._draw, new._path_only = self.loc.detach(), self.scale.detach(), self._draw, True
        new.transforms = tuple(transform.detach() for transform in self.transforms)
        return new

    @property
    def mean(self) -> Tensor:
        """As `variance`, of T over the fixed draws: an estimate, but always the same one."""
        return (self.loc + self.scale * self._moment_draws().mean(0)).expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        return (self.scale.square() * self._moment_draws().var(0, correction=0)).expand(self._extended_shape())

    def _moment_draws(self) -> Tensor:
        batch = self.loc.shape[:-1]  # before any expansion: what is the same for all is drawn once
        noise = self._noise.to(self.loc).reshape(-1, *(1 for _ in batch), self.loc.shape[-1])
        return self._forward(noise.expand(-1, *batch, -1))[0]  # (M, ..., D)

    def _forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:  # T(ε) and log |det ∂T / ∂ε|
        return (_pass if self.one_pass == "sampling" else _way_back)(self.transforms, noise)

    def _backward(self, u: Tensor) -> tuple[Tensor, Tensor]:  # T⁻¹(u) and log |det ∂T / ∂ε| there
        noise, log_det = (_way_back if self.one_pass == "sampling" else _pass)(self.transforms, u)
        return noise, -log_det

    def _score(self, noise: Tensor) -> Tensor:
        """∇ log q(z) at the z of `noise`, a constant: carried along with the draw, transform by transform."""
        with torch.no_grad():
            u, score = noise, -noise
            for transform in self.transforms:
                u, score = (each.flip(-1) for each in transform.push_score(u, score))
            return score / self.scale


def _pass(transforms: Sequence[Autoregressive], x: Tensor) -> tuple[Tensor, Tensor]:
    """y and log |det ∂y/∂x|, by one pass of each transform."""
    log_det = x.new_zeros(x.shape[:-1])
    for transform in transforms:
        x, more = transform(x)
        x, log_det = x.flip(-1), log_det + more
    return x, log_det


def _way_back(transforms: Sequence[Autoregressive], y: Tensor) -> tuple[Tensor, Tensor]:
    """x and log |det ∂x/∂y|, by D passes of each transform, and one more for the determinant."""
    for transform in reversed(transforms):
        y = transform.inverse(y.flip(-1))
    return y, -_pass(transforms, y)[1]


def _standard_normal(noise: Tensor) -> Tensor:
    """log N(ε | 0, I), (...)."""
    return -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1)

"""Families of independent entries with a location and a scale."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated

import pyro.distributions as dist
import torch
from pydantic import Field
from torch import Tensor

from ..distributions.numerics import positive_scale, scale_slope
from ..validation import Number, PositiveInt, validated
from .base import Family


class LocationScale(Family):
    r"""Independent entries :math:`z_d = \mu_d + s_d \varepsilon_d`, with ε of mean 0 and variance 1.

    λ = (μ, log s), P = 2 D; λ = 0 has mean 0 and variance 1 (to the scale floor of 1e-5).

    Reference:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.4, arXiv:1312.6114

    >>> class Logistic(LocationScale):
    ...     def entries(self, loc, scale):
    ...         return dist.Logistic(loc, scale * 3**0.5 / torch.pi)
    >>> Logistic(3)(torch.zeros(7, 6)).rsample((2,)).shape
    torch.Size([2, 7, 3])
    """

    fisher: tuple[float, float]  # informations of μ, at s = 1, and of log s; without them, no natural gradient

    @validated
    def __init__(self, z_dim: PositiveInt) -> None:
        super().__init__(z_dim)
        self.num_params = 2 * z_dim

    @abstractmethod
    def entries(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        """The distributions of the entries, of these means and standard deviations."""

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        return self.shaped(params, (self.z_dim,))

    def shaped(self, params: Tensor, event_shape: Sequence[int]) -> dist.TorchDistribution:
        """q of the same entries, row by row in another event shape."""
        loc, log_scale = (part.reshape(*params.shape[:-1], *event_shape) for part in params.chunk(2, -1))
        return self.entries(loc, positive_scale(log_scale)).to_event(len(event_shape))

    @property
    def has_natural_gradient(self) -> bool:
        return hasattr(self, "fisher")

    def natural_gradient(self, params: Tensor, grad: Tensor) -> Tensor:
        if not self.has_natural_gradient:
            return super().natural_gradient(params, grad)
        (of_loc, of_log_scale), log_scale = self.fisher, params.chunk(2, -1)[1]
        grad_loc, grad_log_scale = grad.chunk(2, -1)
        scale = positive_scale(log_scale)  # (..., D)
        by_log_scale = (scale / scale_slope(log_scale)) ** 2 * grad_log_scale / of_log_scale
        return torch.cat([scale**2 * grad_loc / of_loc, by_log_scale], -1)


class DiagonalNormal(LocationScale):
    r"""Independent normals, λ = (μ, log s), P = 2 D.

    .. math:: q(z \mid \lambda) = \mathcal{N}(z \mid \mu, \mathrm{diag}(s^2))

    >>> DiagonalNormal(2)(torch.tensor([3.0, 4.0, 0.0, 0.0])).mean
    tensor([3., 4.])
    """

    fisher = 1.0, 2.0

    def entries(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Normal(loc, scale)


class Laplace(LocationScale):
    r"""Independent Laplace distributions, λ = (μ, log s), P = 2 D.

    .. math:: q(z \mid \lambda) = \prod_d \frac{1}{2 b_d} e^{-|z_d - \mu_d| / b_d}, \qquad b = s / \sqrt 2

    The partner of a sparse prior: KL divergences to normals and Laplace distributions have a closed form.

    >>> Laplace(3)(torch.zeros(6)).variance
    tensor([1.0000, 1.0000, 1.0000])
    """

    fisher = 2.0, 1.0

    def entries(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, scale / 2**0.5)


class StudentT(LocationScale):
    r"""Independent Student's t distributions with ν = `df` > 2 degrees of freedom, λ = (μ, log s), P = 2 D.

    .. math:: q(z \mid \lambda) \propto \prod_d \Big(1 + \frac{(z_d - \mu_d)^2}{\nu \sigma_d^2}\Big)^{-(\nu + 1) / 2},
        \qquad \sigma = s \sqrt{(\nu - 2) / \nu}

    Tails heavier than the posterior's keep importance weights bounded where a normal's are not.

    Reference:
        Importance Weighting and Variational Inference (Domke & Sheldon, 2018), arXiv:1808.09034

    >>> StudentT(3, df=4.0)(torch.zeros(6)).variance
    tensor([1.0000, 1.0000, 1.0000])
    """

    @validated
    def __init__(self, z_dim: PositiveInt, *, df: Annotated[Number, Field(gt=2)] = 5.0) -> None:
        super().__init__(z_dim)
        self.df = df
        self.fisher = (df + 1) / (df + 3) * df / (df - 2), 2 * df / (df + 3)

    def entries(self, loc: Tensor, scale: Tensor) -> dist.TorchDistribution:
        return dist.StudentT(torch.full_like(loc, self.df), loc, scale * math.sqrt((self.df - 2) / self.df))

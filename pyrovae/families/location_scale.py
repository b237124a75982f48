"""Families of independent entries with a location and a scale."""

import math

import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from torch import Tensor

from ..distributions import positive_scale, scale_slope
from .base import Family


class DiagonalNormal(Family):
    r"""Independent normals, λ = (μ, log s), P = 2 D.

    .. math:: q(z \mid \lambda) = \mathcal{N}(z \mid \mu, \mathrm{diag}(s^2))

    λ = 0 is the standard normal (to the scale floor of 1e-5).

    Reference:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), arXiv:1312.6114
    """

    def __init__(self, z_dim: int) -> None:
        super().__init__(z_dim)
        self.num_params = 2 * z_dim

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        loc, log_scale = params.chunk(2, -1)  # (..., D) each
        return dist.Normal(loc, positive_scale(log_scale)).to_event(1)

    def natural_gradient(self, params: Tensor, grad: Tensor) -> Tensor:
        _, log_scale = params.chunk(2, -1)
        grad_loc, grad_log_scale = grad.chunk(2, -1)
        scale = positive_scale(log_scale)  # (..., D); the Fisher information of μ is 1/s², of log s it is 2
        return torch.cat([scale**2 * grad_loc, (scale / scale_slope(log_scale)) ** 2 * grad_log_scale / 2], -1)


class Laplace(Family):
    r"""Independent Laplace distributions, λ = (μ, log s), P = 2 D.

    .. math:: q(z \mid \lambda) = \prod_d \frac{1}{2 b_d} e^{-|z_d - \mu_d| / b_d}, \qquad b = s / \sqrt 2

    s are the standard deviations; λ = 0 has mean 0 and variance 1. The partner of a sparse prior: KL divergences to
    normals and to other Laplace distributions are known in closed form.

    Reference:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.4 (location-scale families),
        arXiv:1312.6114
    """

    def __init__(self, z_dim: int) -> None:
        super().__init__(z_dim)
        self.num_params = 2 * z_dim

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        loc, log_scale = params.chunk(2, -1)  # (..., D) each
        return dist.Laplace(loc, positive_scale(log_scale) / 2**0.5).to_event(1)

    def natural_gradient(self, params: Tensor, grad: Tensor) -> Tensor:
        _, log_scale = params.chunk(2, -1)
        grad_loc, grad_log_scale = grad.chunk(2, -1)
        scale = positive_scale(log_scale)  # (..., D); the Fisher information of μ is 2/s², of log s it is 1
        return torch.cat([scale**2 * grad_loc / 2, (scale / scale_slope(log_scale)) ** 2 * grad_log_scale], -1)


class StudentT(Family):
    r"""Independent Student's t distributions with ν degrees of freedom, λ = (μ, log s), P = 2 D.

    .. math::
        q(z \mid \lambda) \propto \prod_d \Big(1 + \frac{(z_d - \mu_d)^2}{\nu \sigma_d^2}\Big)^{-(\nu + 1) / 2}, \qquad
        \sigma = s \sqrt{(\nu - 2) / \nu}

    s are the standard deviations; λ = 0 has mean 0 and variance 1. Tails heavier than the posterior's keep importance
    weights bounded where a normal's are not.

    Args:
        z_dim: Number of latent dimensions, D.
        df: ν, above 2; the normal at infinity.

    Raises:
        ValueError: `df` of 2 or less, at which there is no variance.

    References:
        Importance Weighting and Variational Inference (Domke & Sheldon, 2018), arXiv:1808.09034
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.4 (location-scale families),
        arXiv:1312.6114
    """

    def __init__(self, z_dim: int, *, df: PositiveFloat = 5.0) -> None:
        super().__init__(z_dim)
        if not 2 < df < math.inf:
            raise ValueError(f"df must be > 2 and finite, got {df}; use DiagonalNormal for infinity")
        self.df = df
        self.num_params = 2 * z_dim

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        loc, log_scale = params.chunk(2, -1)  # (..., D) each
        scale = positive_scale(log_scale) * math.sqrt((self.df - 2) / self.df)
        return dist.StudentT(torch.full_like(loc, self.df), loc, scale).to_event(1)

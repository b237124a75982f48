"""Gaussian with a few directions of covariance."""

import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor

from ..distributions import ConditionedLowRankNormal, positive_scale
from .base import Family

MAX_NORM = 100.0  # of U: the condition of I + UᵀU stays below 10⁴, and float32 factors it, whatever D and R
INIT_FACTOR = 0.1  # standard deviation of the first U


class LowRankNormal(Family):
    r"""A normal whose correlations have a factor of rank R, λ = (μ, log s, V), P = D (R + 2).

    .. math::
        q(z \mid \lambda) = \mathcal{N}(z \mid \mu, \, A (I + U U^\top) A), \qquad
        U = \frac{V}{\sqrt{1 + \lVert V \rVert^2 / 100^2}}, \quad
        A = \mathrm{diag}\big(s_d / \sqrt{1 + \lVert U_d \rVert^2}\big)

    s are the standard deviations of z, and U, (D, R), makes correlations alone: the R × R capacitance I + UᵀU, which a
    density factors, depends on neither scale. V runs row by row, a row per latent dimension. λ = 0 is the standard
    normal (to the scale floor of 1e-5), and R = D - 1 is enough for any covariance.

    Args:
        z_dim: Number of latent dimensions, D.
        rank: R.

    Raises:
        ValueError: `rank` below 1.

    Reference:
        Gaussian variational approximation with a factor covariance structure (Ong, Nott & Smith, 2018),
        arXiv:1701.03208
    """

    def __init__(self, z_dim: int, *, rank: PositiveInt = 4) -> None:
        super().__init__(z_dim)
        if rank < 1:
            raise ValueError(f"rank must be >= 1, got {rank}; use DiagonalNormal for no correlations")
        self.rank = rank
        self.num_params = z_dim * (rank + 2)

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        d = self.z_dim
        loc, log_scale, flat = params.split([d, d, d * self.rank], -1)
        factor = flat.unflatten(-1, (d, self.rank))  # (..., D, R)
        square_norm = factor.square().sum((-2, -1), keepdim=True)
        factor = factor * (1 + square_norm / MAX_NORM**2).rsqrt()
        scale = positive_scale(log_scale) * (1 + factor.square().sum(-1)).rsqrt()  # (..., D)
        return ConditionedLowRankNormal(loc, factor, scale)

    def init_params(self) -> Tensor:
        """Mean 0, variance 1, and slight correlations, drawn from torch's generator.

        U and -U are the same q, so at U = 0 the mean gradient of U vanishes, and a loop would leave it by noise alone.
        """
        loc_and_log_scale = torch.zeros(2 * self.z_dim)
        return torch.cat([loc_and_log_scale, INIT_FACTOR * torch.randn(self.z_dim * self.rank)])

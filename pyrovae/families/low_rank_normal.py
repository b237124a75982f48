"""Gaussian with a few directions of covariance."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions.numerics import positive_scale
from ..validation import PositiveInt, validated
from .base import Family


class ConditionedLowRankNormal(dist.LowRankMultivariateNormal):
    r"""A normal of mean `loc` and covariance A (I + U Uᵀ) A, with A = diag(`scale`) and U = `factor` (..., D, R).

    Only the factorisation of the capacitance I + UᵀU is not `LowRankMultivariateNormal`'s. As it is well conditioned it
    is not checked: a check waits for a GPU at every step, and keeps a compiled graph from being cached on disk.

    >>> ConditionedLowRankNormal(torch.zeros(3), torch.ones(3, 1), torch.ones(3)).variance
    tensor([2., 2., 2.])
    """

    def __init__(self, loc: Tensor, factor: Tensor, scale: Tensor) -> None:
        self.loc, self.cov_factor, self.cov_diag = loc, scale.unsqueeze(-1) * factor, scale.square()
        self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag = self.cov_factor, self.cov_diag
        capacitance = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device) + factor.mT @ factor
        self._capacitance_tril = torch.linalg.cholesky_ex(capacitance).L  # (..., R, R)
        torch.distributions.Distribution.__init__(self, loc.shape[:-1], loc.shape[-1:])

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return super().expand(batch_shape, self._get_checked_instance(ConditionedLowRankNormal, _instance))


MAX_NORM = 100.0  # of U: the condition of I + UᵀU stays below 10⁴, and float32 factors it, whatever D and R
INIT_FACTOR = 0.1  # standard deviation of the first U


class LowRankNormal(Family):
    r"""A normal whose correlations have a factor of rank R = `rank`, λ = (μ, log s, V), P = D (R + 2).

    .. math::
        q(z \mid \lambda) = \mathcal{N}(z \mid \mu, \, A (I + U U^\top) A), \qquad
        U = \frac{V}{\sqrt{1 + \lVert V \rVert^2 / 100^2}}, \quad
        A = \mathrm{diag}\big(s_d / \sqrt{1 + \lVert U_d \rVert^2}\big)

    s are the standard deviations of z, and U, (D, R), makes correlations alone: the R × R capacitance I + UᵀU, which a
    density factors, depends on neither scale. V runs row by row, a row per latent dimension. λ = 0 is the standard
    normal (to the scale floor of 1e-5), and R = D - 1 is enough for any covariance.

    Reference:
        Gaussian variational approximation with a factor covariance structure (Ong, Nott & Smith, 2018),
        arXiv:1701.03208

    >>> family = LowRankNormal(50, rank=2)
    >>> family.num_params, family(torch.randn(7, 200)).rsample().shape
    (200, torch.Size([7, 50]))
    """

    @validated
    def __init__(self, z_dim: PositiveInt, *, rank: PositiveInt = 4) -> None:
        super().__init__(z_dim)
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
        return torch.cat([torch.zeros(2 * self.z_dim), INIT_FACTOR * torch.randn(self.z_dim * self.rank)])

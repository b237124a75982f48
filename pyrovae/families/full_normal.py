"""Gaussian with full covariance."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions import MIN_SCALE, positive_scale, scale_slope
from .base import Family


class FullNormal(Family):
    r"""A normal with any covariance, λ = (μ, log diag L, strict lower triangle of L), P = D (D + 3) / 2.

    .. math:: q(z \mid \lambda) = \mathcal{N}(z \mid \mu, L L^\top)

    λ = 0 is the standard normal (to the scale floor of 1e-5). The triangle runs row by row.

    Reference:
        An Introduction to Variational Autoencoders (Kingma & Welling, 2019), section 2.5.1, arXiv:1906.02691
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, z_dim: int) -> None:
        super().__init__(z_dim)
        self.num_params = z_dim * (z_dim + 3) // 2
        rows, columns = torch.tril_indices(z_dim, z_dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        loc, log_diagonal, lower = self._split(params)
        return dist.MultivariateNormal(loc, scale_tril=self._triangle(positive_scale(log_diagonal), lower))

    def params_of(self, loc: Tensor, scale_tril: Tensor) -> Tensor:
        """The row λ (..., P) of N(μ, L Lᵀ); entries of diag L below the scale floor are raised to it."""
        diagonal = scale_tril.diagonal(dim1=-2, dim2=-1)
        log_diagonal = (diagonal - MIN_SCALE).clamp_min(MIN_SCALE * 1e-3).log()
        return torch.cat([loc, log_diagonal, scale_tril[..., self.rows, self.columns]], -1)

    def natural_gradient(self, params: Tensor, grad: Tensor) -> Tensor:
        _, log_diagonal, lower = self._split(params)
        grad_loc, grad_log_diagonal, grad_lower = self._split(grad)
        slope = scale_slope(log_diagonal)  # (..., D)
        L = self._triangle(positive_scale(log_diagonal), lower)  # noqa: N806
        # In coordinates A, dL = L A, the Fisher information is diagonal: 2 on the diagonal of A, 1 below it.
        A = (L.mT @ self._triangle(grad_log_diagonal / slope, grad_lower)).tril()  # noqa: N806 - (..., D, D)
        direction = L @ (A - torch.diag_embed(A.diagonal(dim1=-2, dim2=-1)) / 2)
        loc = (L @ (L.mT @ grad_loc[..., None]))[..., 0]
        log_diagonal = direction.diagonal(dim1=-2, dim2=-1) / slope
        return torch.cat([loc, log_diagonal, direction[..., self.rows, self.columns]], -1)

    def _split(self, params: Tensor) -> tuple[Tensor, ...]:
        """What stands in a row: μ (..., D), log diag L (..., D), the strict triangle."""
        return params.split([self.z_dim, self.z_dim, len(self.rows)], -1)

    def _triangle(self, diagonal: Tensor, lower: Tensor) -> Tensor:
        """The lower triangular matrix (..., D, D) with these entries."""
        matrix = torch.diag_embed(diagonal)
        matrix[..., self.rows, self.columns] = lower
        return matrix

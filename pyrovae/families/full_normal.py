"""Gaussian with full covariance."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions.numerics import MIN_SCALE, positive_scale, scale_slope
from ..validation import PositiveInt, validated
from .base import Family


class FullNormal(Family):
    r"""A normal with any covariance, λ = (μ, log s, strict lower triangle of N), P = D (D + 3) / 2.

    .. math:: q(z \mid \lambda) = \mathcal{N}(z \mid \mu, L L^\top), \qquad
        L = \mathrm{diag}(s) \, (I + N / \sqrt D)

    Correlations are relative to the scales, and no row of N outweighs its diagonal by being long: with entries of L
    themselves in λ, what an encoder or a loop does not yet know of them is noise on z that drowns small scales.
    λ = 0 is the standard normal (to the scale floor of 1e-5). The triangle runs row by row.

    Reference:
        An Introduction to Variational Autoencoders (Kingma & Welling, 2019), section 2.5.1, arXiv:1906.02691

    >>> family = FullNormal(3)
    >>> family(torch.zeros(7, family.num_params)).covariance_matrix.shape
    torch.Size([7, 3, 3])
    """

    rows: Tensor
    columns: Tensor

    @validated
    def __init__(self, z_dim: PositiveInt) -> None:
        super().__init__(z_dim)
        self.num_params = z_dim * (z_dim + 3) // 2
        self.unit = z_dim**-0.5  # of N
        rows, columns = torch.tril_indices(z_dim, z_dim, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        loc, log_scale, lower = self._split(params)
        scale = positive_scale(log_scale)  # (..., D)
        return dist.MultivariateNormal(loc, scale_tril=scale[..., None] * self._relative(scale, lower))

    def params_of(self, loc: Tensor, scale_tril: Tensor) -> Tensor:
        """The row λ (..., P) of N(μ, L Lᵀ); entries of diag L below the scale floor are raised to it."""
        scale = scale_tril.diagonal(dim1=-2, dim2=-1)
        log_scale = (scale - MIN_SCALE).clamp_min(MIN_SCALE * 1e-3).log()
        relative = scale_tril / positive_scale(log_scale)[..., None]
        return torch.cat([loc, log_scale, relative[..., self.rows, self.columns] / self.unit], -1)

    def natural_gradient(self, params: Tensor, grad: Tensor) -> Tensor:
        _, log_scale, lower = self._split(params)
        grad_loc, grad_log_scale, grad_lower = self._split(grad)
        scale, slope = positive_scale(log_scale), scale_slope(log_scale)  # (..., D)
        relative = self._relative(scale, lower)
        L = scale[..., None] * relative  # noqa: N806 - (..., D, D)
        # The gradient by L: N_ij moves L_ij alone, s_i the whole row.
        by_lower = self._triangle(torch.zeros_like(scale), grad_lower / self.unit) / scale[..., None]
        by_scale = grad_log_scale / slope - (by_lower * relative).sum(-1)
        # In coordinates A, dL = L A, the Fisher information is diagonal: 2 on the diagonal of A, 1 below it.
        A = (L.mT @ (by_lower + torch.diag_embed(by_scale))).tril()  # noqa: N806
        direction = L @ (A - torch.diag_embed(A.diagonal(dim1=-2, dim2=-1)) / 2)
        scale_step = direction.diagonal(dim1=-2, dim2=-1)
        lower_step = (direction - scale_step[..., None] * relative) / (self.unit * scale[..., None])
        loc_step = (L @ (L.mT @ grad_loc[..., None]))[..., 0]
        return torch.cat([loc_step, scale_step / slope, lower_step[..., self.rows, self.columns]], -1)

    def _split(self, params: Tensor) -> tuple[Tensor, ...]:
        """What stands in a row: μ (..., D), log s (..., D), the strict triangle of N."""
        return params.split([self.z_dim, self.z_dim, len(self.rows)], -1)

    def _relative(self, scale: Tensor, lower: Tensor) -> Tensor:
        """I + N / √D (..., D, D)."""
        return self._triangle(torch.ones_like(scale), self.unit * lower)

    def _triangle(self, diagonal: Tensor, lower: Tensor) -> Tensor:
        """The lower triangular matrix (..., D, D) with these entries."""
        matrix = torch.diag_embed(diagonal)
        matrix[..., self.rows, self.columns] = lower
        return matrix

"""Gaussian with full covariance."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions import positive_scale
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
        d = self.z_dim
        loc, log_diagonal, lower = params.split([d, d, len(self.rows)], -1)
        scale_tril = torch.diag_embed(positive_scale(log_diagonal))  # (..., D, D)
        scale_tril[..., self.rows, self.columns] = lower
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)

"""Mean-field Gaussian."""

import pyro.distributions as dist
import torch
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

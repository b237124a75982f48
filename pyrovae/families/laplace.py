"""Independent Laplace distributions."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions import positive_scale, scale_slope
from .base import Family


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

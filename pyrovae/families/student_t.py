"""Independent Student's t distributions."""

import math

import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from torch import Tensor

from ..distributions import positive_scale
from .base import Family


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

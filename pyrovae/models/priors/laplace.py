"""A sparse prior."""

import math

import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from torch import Tensor, nn


class Laplace(nn.Module):
    r"""Independent Laplace distributions: most latent values near zero, a few large.

    .. math:: p(z) = \prod_d \frac{1}{\sqrt2 s} \exp\Big(-\frac{\sqrt2 \, |z_d|}{s}\Big)

    Args:
        z_dim: Number of latent dimensions, D.
        scale: Standard deviation s.

    Raises:
        ValueError: `scale` not positive.

    Reference:
        Emergence of simple-cell receptive field properties by learning a sparse code for natural images (Olshausen &
        Field, 1996), doi:10.1038/381607a0
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, z_dim: int, *, scale: PositiveFloat = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be > 0, got {scale}")
        self.register_buffer("loc", torch.zeros(z_dim), persistent=False)
        self.register_buffer("scale", torch.full((z_dim,), scale / math.sqrt(2)), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return dist.Laplace(self.loc, self.scale).to_event(1)

"""A learned mixture."""

import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import nn


class MixtureNormal(nn.Module):
    r"""A mixture of C diagonal normals with learned weights, means and scales.

    .. math:: p(z) = \sum_c \pi_c \, \mathcal{N}(z \mid m_c, \mathrm{diag}(s_c^2))

    Args:
        z_dim: Number of latent dimensions, D.
        num_components: C.

    Raises:
        ValueError: `num_components` below 1.
    """

    def __init__(self, z_dim: int, *, num_components: PositiveInt = 10) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"num_components must be >= 1, got {num_components}")
        self.logits = nn.Parameter(torch.zeros(num_components))
        # Apart from each other, or every component would receive the same gradient for ever.
        self.loc = nn.Parameter(torch.randn(num_components, z_dim))
        self.log_scale = nn.Parameter(torch.zeros(num_components, z_dim))

    def forward(self) -> dist.TorchDistribution:
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)

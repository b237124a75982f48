"""A learned flow."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from ...distributions import FlowDistribution, moment_noise
from ...distributions.monotone import Affine
from ...nets.made import made_chain

CONTEXT_DIM = 32


class Flow(nn.Module):
    r"""A masked autoregressive flow, learned with the model.

    .. math:: p(z) = \mathcal{N}(\varepsilon(z) \mid 0, I) \, |\det \partial \varepsilon / \partial z|

    Densities, which training needs, take one pass; draws take D. It begins near the standard normal. The networks are
    those of the family of this name, at one learned context in place of one for each datapoint.

    Args:
        z_dim: Number of latent dimensions, D.
        num_transforms: Transforms in the chain; the order of entries reverses after each.
        widths: Hidden units of each transform's network.

    Raises:
        ValueError: A number below 1.

    References:
        Variational Lossy Autoencoder (Chen et al., 2017), arXiv:1611.02731
        Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017), arXiv:1705.07057
    """

    noise: Tensor

    def __init__(self, z_dim: int, *, num_transforms: PositiveInt = 2, widths: Sequence[PositiveInt] = (128,)) -> None:
        super().__init__()
        self.networks = made_chain(z_dim, CONTEXT_DIM, Affine(), num_transforms, widths)
        self.loc = nn.Parameter(torch.zeros(z_dim))
        self.log_scale = nn.Parameter(torch.zeros(z_dim))
        self.context = nn.Parameter(0.1 * torch.randn(CONTEXT_DIM))  # at zero the networks would have no gradient
        self.register_buffer("noise", moment_noise(z_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        transforms = [network(self.context) for network in self.networks]
        return FlowDistribution(self.loc, self.log_scale.exp(), transforms, self.noise, one_pass="density")

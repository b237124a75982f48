"""Priors p(z): modules whose call without arguments returns a distribution of D = `z_dim` latent dimensions."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..distributions.autoregressive import Affine
from ..nets.made import FlowNetworks
from ..validation import PositiveFloat, PositiveInt, Sizes, validated

__all__ = ["Flow", "Laplace", "MixtureNormal", "StandardNormal", "VampPrior"]


class StandardNormal(nn.Module):
    """p(z) = N(0, I).

    >>> StandardNormal(8)().sample((7,)).shape
    torch.Size([7, 8])
    """

    loc: Tensor
    scale: Tensor

    @validated
    def __init__(self, z_dim: PositiveInt) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(z_dim), persistent=False)
        self.register_buffer("scale", torch.ones(z_dim), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, self.scale).to_event(1)


class Laplace(nn.Module):
    r"""Independent Laplace distributions of standard deviation s = `scale`: most values near zero, a few large.

    .. math:: p(z) = \prod_d \exp(-\sqrt2 |z_d| / s) \, / \, (\sqrt2 s)

    Reference:
        Emergence of simple-cell receptive field properties by learning a sparse code for natural images (Olshausen &
        Field, 1996), doi:10.1038/381607a0

    >>> Laplace(2, scale=3.0)().variance
    tensor([9.0000, 9.0000])
    """

    @validated
    def __init__(self, z_dim: PositiveInt, *, scale: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(z_dim), persistent=False)
        self.register_buffer("scale", torch.full((z_dim,), scale / math.sqrt(2)), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        return dist.Laplace(self.loc, self.scale).to_event(1)


class MixtureNormal(nn.Module):
    r"""A mixture of C = `num_components` diagonal normals with learned weights, means and scales.

    .. math:: p(z) = \sum_c \pi_c \, \mathcal{N}(z \mid m_c, \mathrm{diag}(s_c^2))

    >>> MixtureNormal(8, num_components=4)().sample((7,)).shape
    torch.Size([7, 8])
    """

    @validated
    def __init__(self, z_dim: PositiveInt, *, num_components: PositiveInt = 10) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_components))
        # Apart from each other, or every component would receive the same gradient for ever.
        self.loc = nn.Parameter(torch.randn(num_components, z_dim))
        self.log_scale = nn.Parameter(torch.zeros(num_components, z_dim))

    def forward(self) -> dist.TorchDistribution:
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)


class VampPrior(nn.Module):
    r"""The mixture of the posteriors that the guide's encoder gives for C learned pseudo-inputs.

    .. math:: p(z) = \frac1C \sum_c q(z \mid u_c)

    Encoder, from (..., *x_shape) to (..., P), and family are the guide's own, so the model learns them too.
    Pseudo-inputs stay within [0, 1].

    Reference:
        VAE with a VampPrior (Tomczak & Welling, 2018), arXiv:1705.07120

    >>> import pyrovae as pv
    >>> family, encoder = pv.DiagonalNormal(8), pv.nets.MLP((784,), (16,), widths=(64,))
    >>> VampPrior((784,), family, encoder, num_components=20)().sample((7,)).shape
    torch.Size([7, 8])
    """

    @validated
    def __init__(
        self, x_shape: Sizes, family: nn.Module, encoder: nn.Module, *, num_components: PositiveInt = 500
    ) -> None:
        super().__init__()
        self.family, self.encoder = family, encoder
        # Apart from each other and mostly dark, as images of things on a dark ground are.
        self.pseudo_inputs = nn.Parameter(torch.randn(num_components, *x_shape) - 2.0)  # (C, *x_shape), logits
        self.logits: Tensor
        self.register_buffer("logits", torch.zeros(num_components), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        params = self.encoder(self.pseudo_inputs.sigmoid()).to(self.logits.dtype)  # (C, P)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), self.family(params))


CONTEXT_DIM = 32


class Flow(nn.Module):
    r"""A masked autoregressive flow, learned with the model.

    .. math:: p(z) = \mathcal{N}(\varepsilon(z) \mid 0, I) \, |\det \partial \varepsilon / \partial z|

    Densities, which training needs, take one pass; draws take D. It begins near the standard normal. Networks and
    arguments are those of the family of this name, at one learned context for all datapoints.

    Reference:
        Variational Lossy Autoencoder (Chen et al., 2017), arXiv:1611.02731

    >>> Flow(8)().log_prob(torch.zeros(7, 8)).shape
    torch.Size([7])
    """

    @validated
    def __init__(self, z_dim: PositiveInt, *, num_transforms: PositiveInt = 2, widths: Sizes = (128,)) -> None:
        super().__init__()
        self.networks = FlowNetworks(z_dim, CONTEXT_DIM, Affine(), num_transforms, widths, "density")
        self.loc = nn.Parameter(torch.zeros(z_dim))
        self.log_scale = nn.Parameter(torch.zeros(z_dim))
        self.context = nn.Parameter(0.1 * torch.randn(CONTEXT_DIM))  # at zero the networks would have no gradient

    def forward(self) -> dist.TorchDistribution:
        return self.networks(self.loc, self.log_scale.exp(), self.context)

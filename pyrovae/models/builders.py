"""Models in one call."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from ..nets import MLP, ConvDecoder
from .hierarchical import HierarchicalVAE
from .likelihoods import Bernoulli
from .priors import StandardNormal
from .vae import VAE


def mlp(x_shape: Sequence[int], z_dim: int, *, likelihood: nn.Module | None = None, **net: Any) -> VAE:
    """A `VAE` with standard normal prior and dense decoder; `net` goes to `MLP`."""
    return VAE(StandardNormal(z_dim), MLP((z_dim,), x_shape, **net), likelihood or Bernoulli())


def conv(x_shape: Sequence[int], z_dim: int, *, likelihood: nn.Module | None = None, **net: Any) -> VAE:
    """A `VAE` with standard normal prior and convolutional decoder; `net` goes to `ConvDecoder`."""
    return VAE(StandardNormal(z_dim), ConvDecoder((z_dim,), x_shape, **net), likelihood or Bernoulli())


def hierarchical_mlp(
    x_shape: Sequence[int], z_dims: Sequence[int], *, likelihood: nn.Module | None = None, **net: Any
) -> HierarchicalVAE:
    """A `HierarchicalVAE` of layers `z_dims`, bottom first, with standard normal prior; `net` goes to every `MLP`."""
    layers = [MLP((above,), (2, below), **net) for below, above in pairwise(z_dims)]
    prior, decoder = StandardNormal(z_dims[-1]), MLP((z_dims[0],), x_shape, **net)
    return HierarchicalVAE(z_dims, prior, layers, decoder, likelihood or Bernoulli())

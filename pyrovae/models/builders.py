"""Models in one call."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..nets import MLP, ConvDecoder
from .likelihoods import Bernoulli
from .priors import StandardNormal
from .vae import VAE


def mlp(x_shape: Sequence[int], z_dim: int, *, likelihood: nn.Module | None = None, **net: Any) -> VAE:
    """A `VAE` with standard normal prior and dense decoder; `net` goes to `MLP`."""
    return VAE(StandardNormal(z_dim), MLP((z_dim,), x_shape, **net), likelihood or Bernoulli())


def conv(x_shape: Sequence[int], z_dim: int, *, likelihood: nn.Module | None = None, **net: Any) -> VAE:
    """A `VAE` with standard normal prior and convolutional decoder; `net` goes to `ConvDecoder`."""
    return VAE(StandardNormal(z_dim), ConvDecoder((z_dim,), x_shape, **net), likelihood or Bernoulli())

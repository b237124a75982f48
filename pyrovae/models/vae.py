"""The generative model: a prior, a decoder, a likelihood."""

from typing import Any, ClassVar

import pyro
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from ..nets import MLP, ConvDecoder
from ..validation import Sizes, validated
from .likelihoods import Bernoulli
from .priors import StandardNormal


class VAE(PyroModule):
    r"""p(x, z) = p(z) p(x | f(z)), as a Pyro program: plate `"data"`, latent site `"z"`, observed site `"x"`.

    Args:
        prior: Module whose call without arguments returns p(z), event shape (D,), or another, (T, D) for a sequence.
        decoder: Network f from (..., D) to (..., *x_shape).
        likelihood: Module that turns f(z) into p(x | z), event shape `x_shape`.

    Reference:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), arXiv:1312.6114

    >>> VAE(StandardNormal(8), MLP((8,), (40,), widths=(64,)), Bernoulli(event_dim=1)).sample(7).shape
    torch.Size([7, 40])
    """

    sites: ClassVar[tuple[str, ...]] = ("z",)

    @validated
    def __init__(self, prior: nn.Module, decoder: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.prior, self.decoder, self.likelihood = prior, decoder, likelihood

    def forward(self, x: Tensor) -> None:
        """Scores `x`, shape (B, *x_shape)."""
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior())  # (..., B, D)
            pyro.sample("x", self.decode(z), obs=x)

    def decode(self, z: Tensor) -> TorchDistribution:
        """p(x | z) for z of shape (..., D)."""
        # The decoder may run in bfloat16 under autocast; densities take the latent's precision.
        return self.likelihood(self.decoder(z).to(z.dtype))

    def sample(self, num_samples: int) -> Tensor:
        """E[x | z] at draws from the prior, (num_samples, *x_shape)."""
        return self.decode(self.prior().sample((num_samples,))).mean


def mlp(x_shape: Sizes, z_dim: int, *, likelihood: nn.Module | None = None, **net: Any) -> VAE:
    """A `VAE` with standard normal prior and dense decoder; `net` goes to `MLP`.

    >>> mlp((1, 28, 28), z_dim=8, widths=(64,)).sample(7).shape
    torch.Size([7, 1, 28, 28])
    """
    return VAE(StandardNormal(z_dim), MLP((z_dim,), x_shape, **net), likelihood or Bernoulli(len(x_shape)))


def conv(x_shape: Sizes, z_dim: int, *, likelihood: nn.Module | None = None, **net: Any) -> VAE:
    """A `VAE` with standard normal prior and convolutional decoder; `net` goes to `ConvDecoder`.

    >>> conv((3, 17, 30), z_dim=8, channels=(8, 16)).sample(7).shape
    torch.Size([7, 3, 17, 30])
    """
    return VAE(StandardNormal(z_dim), ConvDecoder((z_dim,), x_shape, **net), likelihood or Bernoulli())

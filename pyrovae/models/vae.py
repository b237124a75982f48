"""The generative model: a prior, a decoder, a likelihood."""

import pyro
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn


class VAE(PyroModule):
    r"""The latent-variable model of a variational autoencoder.

    .. math:: p(x, z) = p(z) \, p(x \mid f(z))

    As a Pyro program: plate `"data"`, latent site `"z"`, observed site `"x"`.

    Args:
        prior: Module whose call without arguments returns p(z), event shape (D,).
        decoder: Network f from (..., D) to (..., *x_shape).
        likelihood: Module that turns f(z) into p(x | z), event shape `x_shape`.

    Reference:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), arXiv:1312.6114
    """

    def __init__(self, prior: nn.Module, decoder: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood

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

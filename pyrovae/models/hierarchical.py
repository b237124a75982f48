"""A generative model of several stochastic layers."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.func import functional_call

from ..distributions import positive_scale
from ..nets import MLP
from ..validation import Sizes, validated
from .likelihoods import Bernoulli
from .priors import StandardNormal


class HierarchicalVAE(PyroModule):
    r"""A chain of L latent layers, of which the bottom one makes the data.

    .. math:: p(z_L) \prod_{l < L} \mathcal{N}(z_l \mid m_l(z_{l+1}), \mathrm{diag}(s_l^2(z_{l+1}))) \, p(x \mid f(z_1))

    As a Pyro program: plate `"data"`, latent sites `"z1"` (bottom) to `"zL"` (top), observed site `"x"`.

    Args:
        z_dims: Dimensions D_1 ... D_L of the layers, bottom first.
        prior: Module whose call without arguments returns p(z_L), event shape (D_L,).
        layers: Networks from (..., D_{l+1}) to (..., 2, D_l), location and log-scale of z_l; l = 1 ... L - 1.
        decoder: Network f from (..., D_1) to (..., *x_shape).
        likelihood: Module that turns f(z_1) into p(x | z_1), event shape `x_shape`.

    Reference:
        Ladder Variational Autoencoders (Sønderby et al., 2016), arXiv:1602.02282

    >>> decoder, likelihood = MLP((50,), (784,)), Bernoulli(event_dim=1)
    >>> model = HierarchicalVAE((50, 20), StandardNormal(20), [MLP((20,), (2, 50))], decoder, likelihood)
    >>> model.sites, model.sample(7).shape
    (('z1', 'z2'), torch.Size([7, 784]))
    """

    @validated
    def __init__(
        self, z_dims: Sizes, prior: nn.Module, layers: Sequence[nn.Module], decoder: nn.Module, likelihood: nn.Module
    ) -> None:
        super().__init__()
        if len(z_dims) < 2:
            raise ValueError(f"z_dims must name at least two layers, bottom first, got {list(z_dims)}; use VAE for one")
        if len(layers) != len(z_dims) - 1:
            raise ValueError(f"layers must be {len(z_dims) - 1} networks for z_dims {list(z_dims)}, got {len(layers)}")
        self.z_dims, self.sites = tuple(z_dims), tuple(f"z{level + 1}" for level in range(len(z_dims)))
        self.prior, self.layers, self.decoder, self.likelihood = prior, nn.ModuleList(layers), decoder, likelihood

    def forward(self, x: Tensor) -> None:
        """Scores `x`, shape (B, *x_shape)."""
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample(self.sites[-1], self.prior())  # (..., B, D_L)
            for level in reversed(range(len(self.layers))):
                z = pyro.sample(self.sites[level], self.conditional(level, z))  # (..., B, D_l)
            pyro.sample("x", self.decode(z), obs=x)

    def conditional(self, level: int, above: Tensor, fixed: bool = False) -> dist.Independent:
        """p of the layer at `level`, 0 the bottom, given that above (..., D_{l+1}); `fixed` weights get no gradient."""
        net = self.layers[level]
        weights = {name: weight.detach() for name, weight in net.named_parameters()} if fixed else {}
        h = functional_call(net, weights, above) if fixed else net(above)  # (..., 2, D_l)
        loc, log_scale = h.to(above.dtype).unbind(-2)  # (..., D_l) each, back from bfloat16 under autocast
        return dist.Normal(loc, positive_scale(log_scale)).to_event(1)

    def decode(self, z: Tensor) -> TorchDistribution:
        """p(x | z) for z of all layers, bottom first, (..., D_1 + ... + D_L), or of the bottom one alone."""
        return self.likelihood(self.decoder(z[..., : self.z_dims[0]]).to(z.dtype))

    def sample(self, num_samples: int) -> Tensor:
        """E[x | z] at draws from the prior, (num_samples, *x_shape)."""
        z = self.prior().sample((num_samples,))
        for level in reversed(range(len(self.layers))):
            z = self.conditional(level, z).sample()
        return self.decode(z).mean


def hierarchical_mlp(
    x_shape: Sizes, z_dims: Sizes, *, likelihood: nn.Module | None = None, **net: Any
) -> HierarchicalVAE:
    """A `HierarchicalVAE` of layers `z_dims`, bottom first, with standard normal prior; `net` goes to every `MLP`.

    >>> hierarchical_mlp((1, 28, 28), (8, 4), widths=(64,)).sample(7).shape
    torch.Size([7, 1, 28, 28])
    """
    layers = [MLP((above,), (2, below), **net) for below, above in pairwise(z_dims)]
    prior, decoder = StandardNormal(z_dims[-1]), MLP((z_dims[0],), x_shape, **net)
    return HierarchicalVAE(z_dims, prior, layers, decoder, likelihood or Bernoulli(len(x_shape)))

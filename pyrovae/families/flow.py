"""A normalizing flow."""

from typing import Literal

import pyro.distributions as dist
from torch import Tensor

from ..distributions.autoregressive import Affine, Spline
from ..distributions.flow import OnePass
from ..distributions.numerics import positive_scale
from ..nets.made import FlowNetworks
from ..validation import PositiveInt, Sizes, validated
from .base import Family

Transform = Literal["iaf", "maf", "nsf"]


class Flow(Family):
    r"""A normal bent by autoregressive transforms, λ = (μ, log s, c), P = 2 D + C.

    .. math:: z = \mu + s \odot T(\varepsilon; c), \qquad \varepsilon \sim \mathcal{N}(0, I)

    The transforms' weights are the family's: all datapoints share them, and they train with the encoder. Their context
    c is part of λ, so a refiner moves it, μ and s for each datapoint and leaves the weights alone. At c = 0 T is the
    identity, whatever the weights are: the family holds every diagonal normal, and λ = 0 is the standard normal.

    Draws of `iaf` and `nsf` take one pass, and their path gradient is solved for in blocks. `maf` scores in one pass
    and draws in D; of the way that takes D passes, gradients cost one.

    Args:
        transform: `iaf`, affine, one pass a draw; `maf`, affine, one pass a density; `nsf`, splines, one pass a draw.
        num_transforms: Transforms in the chain; the order of entries reverses after each.
        context_dim: C.
        widths: Hidden units of each transform's network; `()` makes it linear.
        num_bins: Bins of a spline, for `nsf`.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), arXiv:1606.04934
        Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017), arXiv:1705.07057
        Neural Spline Flows (Durkan et al., 2019), arXiv:1906.04032

    >>> import torch
    >>> family = Flow(8, transform="nsf", context_dim=4)
    >>> family(torch.zeros(7, family.num_params)).rsample().shape
    torch.Size([7, 8])
    """

    density = "own"  # for any draw too, by D passes, but with first derivatives only

    @validated
    def __init__(
        self,
        z_dim: PositiveInt,
        *,
        transform: Transform = "iaf",
        num_transforms: PositiveInt = 2,
        context_dim: PositiveInt = 32,
        widths: Sizes = (128,),
        num_bins: PositiveInt = 8,
    ) -> None:
        super().__init__(z_dim)
        self.num_params = 2 * z_dim + context_dim
        monotone = Spline(num_bins) if transform == "nsf" else Affine()
        one_pass: OnePass = "density" if transform == "maf" else "sampling"
        self.networks = FlowNetworks(z_dim, context_dim, monotone, num_transforms, widths, one_pass)

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        loc, log_scale, context = params.tensor_split([self.z_dim, 2 * self.z_dim], -1)
        return self.networks(loc, positive_scale(log_scale), context)

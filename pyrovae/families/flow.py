"""A normalizing flow."""

from collections.abc import Sequence
from typing import Literal, get_args

import pyro.distributions as dist
from pydantic import PositiveInt
from torch import Tensor

from ..distributions import FlowDistribution, moment_noise, positive_scale
from ..distributions.autoregressive import Affine, Spline
from ..nets.made import made_chain
from .base import Family

Transform = Literal["iaf", "maf", "nsf"]


class Flow(Family):
    r"""A normal bent by autoregressive transforms, λ = (μ, log s, c), P = 2 D + C.

    .. math:: z = \mu + s \odot T(\varepsilon; c), \qquad \varepsilon \sim \mathcal{N}(0, I)

    The transforms' weights are the family's: all datapoints share them, and they train with the encoder. Their context
    c is part of λ, so a refiner moves it, μ and s for each datapoint and leaves the weights alone. At c = 0 T is the
    identity, whatever the weights are: the family holds every diagonal normal, and λ = 0 is the standard normal.

    Draws of `iaf` and `nsf` take one pass, and their path gradient is solved for in blocks. `maf` scores in one pass
    and draws in D, each of which a captured graph holds; of the way that takes D passes, gradients cost one.

    Args:
        transform: `iaf`, affine, one pass a draw; `maf`, affine, one pass a density; `nsf`, rational quadratic
            splines, one pass a draw.
        num_transforms: Transforms in the chain; the order of entries reverses after each.
        context_dim: C.
        widths: Hidden units of each transform's network; `()` makes it linear.
        num_bins: Bins of a spline; for `nsf`.

    Raises:
        ValueError: A number out of range, or an unknown transform.

    References:
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), arXiv:1606.04934
        Masked Autoregressive Flow for Density Estimation (Papamakarios et al., 2017), arXiv:1705.07057
        Neural Spline Flows (Durkan et al., 2019), arXiv:1906.04032
    """

    density = "own"  # it does, by D passes, but with first derivatives only
    noise: Tensor

    def __init__(
        self,
        z_dim: int,
        *,
        transform: Transform = "iaf",
        num_transforms: PositiveInt = 2,
        context_dim: PositiveInt = 32,
        widths: Sequence[PositiveInt] = (128,),
        num_bins: PositiveInt = 8,
    ) -> None:
        super().__init__(z_dim)
        if transform not in get_args(Transform):
            raise ValueError(f"transform must be iaf, maf or nsf, got {transform!r}")
        if num_bins < 1:
            raise ValueError(f"num_bins must be >= 1, got {num_bins}")
        self.transform = transform
        self.num_params = 2 * z_dim + context_dim
        monotone = Spline(num_bins) if transform == "nsf" else Affine()
        self.networks = made_chain(z_dim, context_dim, monotone, num_transforms, widths)
        self.register_buffer("noise", moment_noise(z_dim), persistent=False)

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        loc, log_scale, context = params.tensor_split([self.z_dim, 2 * self.z_dim], -1)
        return FlowDistribution(
            loc,
            positive_scale(log_scale),
            [network(context) for network in self.networks],
            self.noise,
            one_pass="density" if self.transform == "maf" else "sampling",
        )

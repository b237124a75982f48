"""A family carried to another support."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import ReshapeTransform

from ..distributions import Transformed
from .base import Family
from .latent_sites import LatentSite


class Constrained(Family):
    r"""z = T(u), u ~ `family`, with T the bijection from the reals to the support of a site, in the site's shape.

    .. math:: q(z \mid \lambda) = q_u(T^{-1}(z) \mid \lambda) \, |\det J_{T^{-1}}(z)|

    Positive entries are exponentials, entries in an interval sigmoids, a simplex is broken like a stick.

    Args:
        family: Of u, as many dimensions as `site.num_free`.
        site: Event shape and support of z.

    Reference:
        Automatic Differentiation Variational Inference (Kucukelbir et al., 2017), arXiv:1603.00788
    """

    def __init__(self, family: Family, site: LatentSite) -> None:
        super().__init__(site.event_shape.numel())
        self.family = family
        self.site = site
        self.num_params = family.num_params

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        bijection = biject_to(self.site.support)
        free_shape = bijection.inverse_shape(self.site.event_shape)
        reshape = ReshapeTransform(torch.Size([self.family.z_dim]), free_shape)
        # A cache, so that a draw is scored from its u, not from T⁻¹(z), which overflows first.
        return Transformed(self.family(params), [reshape.with_cache(), bijection.with_cache()])

    def init_params(self) -> Tensor:
        return self.family.init_params()

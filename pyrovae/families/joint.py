"""Several latent sites, a family for each, on each one's support."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import biject_to
from torch.distributions.transforms import ReshapeTransform

from ..distributions import Concatenated, Transformed, full_precision, joined
from ..models.latent_sites import LatentSite, latent_sites
from ..validation import validated
from .base import Density, Family
from .location_scale import DiagonalNormal, LocationScale

_WEAKEST_FIRST: tuple[Density, ...] = ("none", "own", "any")


class Constrained(Family):
    r"""z = T(u), u ~ `family` of `site.num_free` dimensions, T the bijection from the reals to the site's support.

    .. math:: q(z \mid \lambda) = q_u(T^{-1}(z) \mid \lambda) \, |\det J_{T^{-1}}(z)|

    Positive entries are exponentials, entries in an interval sigmoids, a simplex is broken like a stick. Independent
    entries that may be any number are independent still, so their KL to a normal prior stays in closed form.

    Reference:
        Automatic Differentiation Variational Inference (Kucukelbir et al., 2017), arXiv:1603.00788

    >>> simplex = LatentSite(torch.Size([6]), torch.distributions.constraints.simplex)
    >>> q = Constrained(DiagonalNormal(5), simplex)(torch.randn(7, 10))
    >>> q.rsample().sum(-1).allclose(torch.ones(7))
    True
    """

    @validated
    def __init__(self, family: Family, site: LatentSite) -> None:
        super().__init__(site.event_shape.numel())
        self.family = family
        self.site = site
        self.num_params = family.num_params
        self.density = family.density

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        if self.site.is_real and isinstance(self.family, LocationScale):
            return self.family.shaped(params, self.site.event_shape)
        q, bijection = self.family(params), biject_to(self.site.support)
        reshape = ReshapeTransform(q.event_shape, bijection.inverse_shape(self.site.event_shape))
        # A cache, so that a draw is scored from its u, not from T⁻¹(z), which overflows first.
        return Transformed(q, [reshape.with_cache(), bijection.with_cache()])

    def init_params(self) -> Tensor:
        return self.family.init_params()


class Joint(Family):
    r"""Independent families by site name; λ is their λ side by side, P = P_1 + ... + P_L.

    .. math:: q(z \mid \lambda) = \prod_l q_l(z_l \mid \lambda_l)

    `families` by site name, `others` the same. As one distribution, z is the flattened values side by side; where the
    one site is an array, as (T, D) over time, z is that array.

    >>> import pyrovae as pv
    >>> family = Joint(z1=pv.FullNormal(5), z2=pv.DiagonalNormal(3))
    >>> family.num_params, family(torch.zeros(7, 26)).event_shape
    (26, torch.Size([8]))
    """

    @validated
    def __init__(self, families: Mapping[str, Family] | None = None, **others: Family) -> None:
        given = {**(families or {}), **others}
        if not given:
            raise ValueError("Joint needs a family for each latent site, got none, as in Joint(z=DiagonalNormal(50))")
        super().__init__(sum(family.z_dim for family in given.values()))
        self.sites = tuple(given)
        self.families = nn.ModuleList(given.values())  # no ModuleDict: names of sites may hold dots
        self.num_params = sum(family.num_params for family in given.values())
        self.density = min((family.density for family in given.values()), key=_WEAKEST_FIRST.index)

    @classmethod
    def of(cls, model: Callable, x: Tensor, family: Callable[[int], Family] = DiagonalNormal) -> "Joint":
        """The family of a model of one's own: one that `family` makes for each latent site, on the site's support.

        Args:
            model: Pyro model of plate `"data"`; run once.
            x: A batch of its data.
            family: Makes the family of so many unconstrained dimensions.

        Raises:
            ValueError: No plate `"data"`, or a site that is discrete or belongs to no datapoint.
        """
        made: dict[str, Family] = {}
        for name, site in latent_sites(model, x).items():
            made[name] = family(site.num_free)
            if not (site.is_real and len(site.event_shape) == 1):  # a vector needs no transform
                made[name] = Constrained(made[name], site)
        return cls(made)

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        parts = self._parts(params)
        return parts[0] if _is_array(parts) else Concatenated(parts)

    def init_params(self) -> Tensor:
        return torch.cat([family.init_params() for family in self.families])  # type: ignore[operator]

    def sample(self, params: Tensor) -> Tensor:
        with pyro.plate("data", params.shape[0]), full_precision(params):
            parts = self._parts(params)
            values = [pyro.sample(name, q) for name, q in zip(self.sites, parts, strict=True)]
        return values[0] if _is_array(parts) else joined(values, [len(q.event_shape) for q in parts])  # (..., B, D)

    def _parts(self, params: Tensor) -> list[Any]:
        families: Any = self.families
        blocks = params.split([family.num_params for family in families], -1)
        return [family(block) for family, block in zip(families, blocks, strict=True)]


def _is_array(parts: list[Any]) -> bool:
    return len(parts) == 1 and len(parts[0].event_shape) > 1

"""Top down through the layers of the model."""

from collections.abc import Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions import Concatenated, Conditional, full_precision, positive_scale
from ..models.hierarchical import HierarchicalVAE
from ..validation import validated
from .base import Family


class Ladder(Family):
    r"""The posterior of a `HierarchicalVAE`, each layer given the one above: the model's p times a message from x.

    .. math::
        q(z_L) = \mathcal{N}(\hat\mu_L, \hat s_L^2), \qquad
        q(z_l \mid z_{l+1}) \propto \mathcal{N}(z_l \mid \hat\mu_l, \hat s_l^2) \; p(z_l \mid z_{l+1})

    The product is weighted by precisions; gradients reach the model's weights. λ = (μ̂, log ŝ) of each layer, bottom
    first, P = 2 (D_1 + ... + D_L). As one distribution it is the plug-in: each layer given the *mean* of the one above.

    Reference:
        Ladder Variational Autoencoders (Sønderby et al., 2016), arXiv:1602.02282

    >>> import pyrovae as pv
    >>> family = Ladder(pv.models.hierarchical_mlp((784,), (8, 4)))
    >>> family.sample(torch.zeros(7, family.num_params)).shape
    torch.Size([7, 12])
    """

    @validated
    def __init__(self, model: HierarchicalVAE) -> None:
        super().__init__(sum(model.z_dims))
        self._model = (model,)  # in a tuple: known to the family, but no submodule of it
        self.num_params = 2 * self.z_dim

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        parts: list[Any] = []  # bottom first
        for level, block in self._top_down(params):
            parts.insert(0, self._given(level, block, parts[0].mean if parts else None))
        return Concatenated(parts)

    def sample(self, params: Tensor) -> Tensor:
        values: list[Tensor] = []
        with pyro.plate("data", params.shape[0]):
            for level, block in self._top_down(params):
                q = self._given(level, block, values[0] if values else None)
                with full_precision(params):
                    values.insert(0, pyro.sample(self._model[0].sites[level], q))
        return torch.cat(values, -1)  # (..., B, D)

    def _top_down(self, params: Tensor) -> Iterator[tuple[int, Tensor]]:
        return reversed(list(enumerate(params.split([2 * dim for dim in self._model[0].z_dims], -1))))

    def _given(self, level: int, block: Tensor, above: Tensor | None) -> dist.TorchDistribution:
        """q of a layer, with its block of λ (..., 2 D_l), given a value of the layer above, if there is one."""
        if above is None:
            return _message(block).to_event(1)

        def times_prior(block: Tensor, fixed: bool) -> dist.Normal:
            return _product(_message(block), self._model[0].conditional(level, above, fixed))

        return Conditional(times_prior(block, False), lambda: times_prior(block.detach(), True).to_event(1))


def _message(block: Tensor) -> dist.Normal:
    loc, log_scale = block.chunk(2, -1)
    return dist.Normal(loc, positive_scale(log_scale))


def _product(message: dist.Normal, prior: dist.Independent) -> dist.Normal:
    """Proportional to the product of the densities; by ratios of variances, which neither over- nor underflow."""
    p = prior.base_dist
    total = message.variance + p.variance
    return dist.Normal(p.loc + p.variance / total * (message.loc - p.loc), message.scale * p.scale * total.rsqrt())

"""A distribution on a support, and in a shape, of its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from .held_fixed import held_fixed

NUM_NODES = 64  # of the quadrature: exp(s ε) up to s = 3 in single precision


class Transformed(dist.TransformedDistribution):
    r"""z = T(u) for fixed bijections T, with moments.

    Mean and variance are exact, by Gauss-Hermite quadrature, where T acts on each entry and u is normal. Elsewhere the
    mean is the plug-in T(E[u]), and there is no variance. (No constructor of its own, so that it can be expanded.)
    """

    def held_fixed(self) -> Any:
        """A copy without gradient to the parameters; it shares T, which remembers where the last draw came from."""
        return dist.TransformedDistribution(held_fixed(self.base_dist), self.transforms)

    @property
    def mean(self) -> Tensor:
        if self._quadrature_is_exact:
            return self._expectation(lambda z: z)
        return self._transform(self.base_dist.mean)

    @property
    def variance(self) -> Tensor:
        if not self._quadrature_is_exact:
            raise NotImplementedError("no variance in closed form; take that of draws")
        mean = self.mean
        return self._expectation(lambda z: (z - mean).square())

    @property
    def _quadrature_is_exact(self) -> bool:
        base = self.base_dist
        normal = isinstance(base, torch.distributions.MultivariateNormal) or (
            isinstance(base, torch.distributions.Independent) and isinstance(base.base_dist, torch.distributions.Normal)
        )
        return normal and all(_is_elementwise(transform) for transform in self.transforms)

    def _expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
        total: Any = 0.0
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            total = total + weight * function(self._transform(self.base_dist.mean + node * self.base_dist.stddev))
        return total

    def _transform(self, u: Tensor) -> Tensor:
        for transform in self.transforms:
            u = transform(u)
        return u


def _is_elementwise(transform: Any) -> bool:
    if isinstance(transform, torch.distributions.transforms.ReshapeTransform):
        return True
    try:
        return transform.sign is not None  # only what is monotone in each entry has one
    except NotImplementedError:
        return False

"""Counts."""

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .base import Likelihood


class Poisson(Likelihood):
    r"""x ∈ {0, 1, 2, ...}, rate exp(h) counts an entry; h is capped at 15 (3 million counts)."""

    support = constraints.nonnegative_integer

    def elementwise(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(h.clamp(max=15.0).exp())

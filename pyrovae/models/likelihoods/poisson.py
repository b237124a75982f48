"""Counts."""

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .base import Likelihood

MAX_LOG_RATE = 15.0


class Poisson(Likelihood):
    r"""x ∈ {0, 1, 2, ...}, rate exp(h) counts an entry; h is capped at 15 (3 million counts)."""

    support = constraints.nonnegative_integer
    values = "0, 1, 2, ..."

    def elementwise(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(h.clamp(max=MAX_LOG_RATE).exp())

    def information(self, h: Tensor) -> Tensor:
        return super().information(h) * (h <= MAX_LOG_RATE)  # the cap has no slope

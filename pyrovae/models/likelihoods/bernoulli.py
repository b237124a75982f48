"""Binary data."""

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .base import Likelihood


class Bernoulli(Likelihood):
    r"""x ∈ {0, 1}, P(x = 1 | h) = sigmoid(h)."""

    support = constraints.boolean
    values = "0 and 1"

    def elementwise(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=h)

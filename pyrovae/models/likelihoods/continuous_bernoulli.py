"""Grey values."""

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from .base import Likelihood


class ContinuousBernoulli(Likelihood):
    r"""x ∈ [0, 1] with density C(λ) λˣ (1 - λ)¹⁻ˣ, λ = sigmoid(h): the Bernoulli formula, normalised.

    Reference:
        The continuous Bernoulli (Loaiza-Ganem & Cunningham, 2019), arXiv:1907.06845
    """

    support = constraints.unit_interval

    def elementwise(self, h: Tensor) -> dist.TorchDistribution:
        return dist.ContinuousBernoulli(logits=h)

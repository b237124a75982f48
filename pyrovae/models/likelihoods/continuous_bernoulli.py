"""Grey values."""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from .base import Likelihood


class ContinuousBernoulli(Likelihood):
    r"""x ∈ [0, 1] with density C(λ) λˣ (1 - λ)¹⁻ˣ, λ = sigmoid(h): the Bernoulli formula, normalised.

    Reference:
        The continuous Bernoulli (Loaiza-Ganem & Cunningham, 2019), arXiv:1907.06845
    """

    support = constraints.unit_interval
    values = "[0, 1]"

    def elementwise(self, h: Tensor) -> dist.TorchDistribution:
        return dist.ContinuousBernoulli(logits=h)

    def information(self, h: Tensor) -> Tensor:
        # The variance, but torch's loses all its digits near h = 0 in float32. Near 0, its Taylor series.
        near = 1 / 12 - h**2 / 240 + h**4 / 6048 - h**6 / 172800
        return torch.where(h.abs() < 0.5, near, 1 / h**2 - 0.25 / (h / 2).sinh() ** 2)

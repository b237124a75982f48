"""Real-valued data."""

import math

import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.distributions import constraints

from .base import Likelihood


class Normal(Likelihood):
    r"""x | h ~ N(h, σ² I).

    Args:
        event_dim: As in `Likelihood`.
        scale: σ, or its first value; same units as x.
        learn_scale: Learn σ, one number for all entries, by maximum likelihood.

    Raises:
        ValueError: `scale` not positive.
    """

    support = constraints.real
    values = "finite numbers"
    log_scale: Tensor

    def __init__(self, event_dim: int = 3, *, scale: PositiveFloat = 1.0, learn_scale: bool = False) -> None:
        super().__init__(event_dim)
        if not scale > 0:
            raise ValueError(f"scale must be > 0, got {scale}")
        log_scale = torch.tensor(math.log(scale))
        if learn_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def elementwise(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Normal(h, self.log_scale.exp())

    def information(self, h: Tensor) -> Tensor:
        return (-2 * self.log_scale).exp().expand_as(h)

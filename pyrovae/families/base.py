"""What a family is."""

from abc import ABC, abstractmethod

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..distributions import full_precision


class Family(nn.Module, ABC):
    """Turns unconstrained parameters λ, a row per datapoint, into q(z | λ).

    Args:
        z_dim: Number of latent dimensions, D.

    Attributes:
        num_params: P, the length of a row of λ.

    Raises:
        ValueError: `z_dim` below 1.
    """

    num_params: int

    def __init__(self, z_dim: int) -> None:
        super().__init__()
        if z_dim < 1:
            raise ValueError(f"z_dim must be >= 1, got {z_dim}")
        self.z_dim = z_dim

    @abstractmethod
    def forward(self, params: Tensor) -> dist.TorchDistribution:
        """λ (..., P) to q(z | λ), batch shape (...), event shape (D,)."""

    def init_params(self) -> Tensor:
        """A row λ (P,) to start from when nothing is known: here zeros, which should give mean 0 and variance 1."""
        return torch.zeros(self.num_params)

    def sample(self, params: Tensor) -> Tensor:
        """The guide as a Pyro program: plate `"data"`, site `"z"`, for λ (B, P).

        A family over several latent sites overrides this.
        """
        with pyro.plate("data", params.shape[0]), full_precision(params):
            return pyro.sample("z", self(params))

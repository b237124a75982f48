"""What a family is."""

from abc import ABC, abstractmethod
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..distributions import full_precision


def has_natural_gradient(family: type["Family"]) -> bool:
    """Whether a class of families writes `natural_gradient`."""
    return family.natural_gradient is not Family.natural_gradient


class Family(nn.Module, ABC):
    """Turns unconstrained parameters λ, a row per datapoint, into q(z | λ).

    Args:
        z_dim: Number of latent dimensions, D.

    Attributes:
        num_params: P, the length of a row of λ.
        scores_any_draw: Whether q(z | λ) has a twice differentiable density for z drawn from another λ.

    Raises:
        ValueError: `z_dim` below 1.
    """

    num_params: int
    density: ClassVar = "any"

    @property
    def has_natural_gradient(self) -> bool:
        return type(self).natural_gradient is not Family.natural_gradient

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

    def natural_gradient(self, params: Tensor, grad: Tensor) -> Tensor:
        r"""The direction of steepest change per nat of KL, for a gradient (..., P) taken at λ (..., P).

        .. math:: F(\lambda)^{-1} g, \qquad F(\lambda) = E_q [\nabla \log q \, \nabla \log q^\top]

        For families whose Fisher information F has a closed form; full precision is up to the caller.

        Raises:
            NotImplementedError: A family without.

        Reference:
            Natural Gradient Works Efficiently in Learning (Amari, 1998), Neural Computation 10(2)
        """
        raise NotImplementedError(f"{type(self).__name__} has no natural_gradient")

    def sample(self, params: Tensor) -> Tensor:
        """The guide as a Pyro program: plate `"data"`, site `"z"`, for λ (B, P).

        A family over several latent sites, `Joint` or `Ladder`, overrides this.
        """
        with pyro.plate("data", params.shape[0]), full_precision(params):
            return pyro.sample("z", self(params))

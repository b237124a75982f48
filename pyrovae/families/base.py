"""What a family is."""

from abc import ABC, abstractmethod
from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..distributions.numerics import full_precision
from ..validation import PositiveInt, validated

Density = Literal["any", "own", "none"]


class Family(nn.Module, ABC):
    """Turns unconstrained parameters λ, a row per datapoint, into q(z | λ).

    A family says for which z the density of q is known: for `any`, twice differentiable; for its `own` draws alone; or
    for `none`: then it has `rsample` and a KL to the prior, registered with `torch.distributions.kl.register_kl`.

    >>> class Cauchy(Family):
    ...     num_params = 3
    ...     def forward(self, params):
    ...         return dist.Cauchy(params, 1.0).to_event(1)
    >>> Cauchy(3).sample(torch.zeros(7, 3)).shape
    torch.Size([7, 3])
    """

    z_dim: int  # D, the entries of z, whatever its shape
    num_params: int  # P, the length of a row of λ
    density: Density = "any"

    @validated
    def __init__(self, z_dim: PositiveInt) -> None:
        super().__init__()
        self.z_dim = z_dim

    @abstractmethod
    def forward(self, params: Tensor) -> dist.TorchDistribution:
        """λ (..., P) to q(z | λ), batch shape (...), event shape (D,) or another of D entries, as (T, D / T)."""

    def init_params(self) -> Tensor:
        """A row λ (P,) to start from when nothing is known: here zeros, which should give mean 0 and variance 1."""
        return torch.zeros(self.num_params)

    @property
    def has_natural_gradient(self) -> bool:
        """Whether the class writes `natural_gradient`."""
        return type(self).natural_gradient is not Family.natural_gradient

    def natural_gradient(self, params: Tensor, grad: Tensor) -> Tensor:
        r"""The direction of steepest change per nat of KL, for a gradient (..., P) taken at λ (..., P).

        .. math:: F(\lambda)^{-1} g, \qquad F(\lambda) = E_q [\nabla \log q \, \nabla \log q^\top]

        For families whose Fisher information F has a closed form, others raise; full precision is up to the caller.

        Reference:
            Natural Gradient Works Efficiently in Learning (Amari, 1998), Neural Computation 10(2)
        """
        raise NotImplementedError(f"{type(self).__name__} has no natural_gradient")

    def natural_step(self, params: Tensor, grad: Tensor, lr: Tensor, num_draws: int) -> Tensor:
        """The natural gradient as a loop takes it at step size `lr`, for a gradient that is the mean of so many draws.

        Here all of it. A family shortens directions that noise would drown at that size, as `FullNormal` correlations.
        """
        return self.natural_gradient(params, grad)

    def sample(self, params: Tensor) -> Tensor:
        """The guide as a Pyro program: plate `"data"`, site `"z"`, for λ (B, P); returns z (..., B, *event_shape).

        A family over several latent sites, `Joint` or `Ladder`, overrides this.
        """
        with pyro.plate("data", params.shape[0]), full_precision(params):
            return pyro.sample("z", self(params))

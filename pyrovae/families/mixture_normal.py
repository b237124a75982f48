"""Mixture of Gaussians."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions import ReparameterizedMixture, positive_scale
from ..validation import PositiveInt, validated
from .base import Family

SPREAD = 0.5  # root mean square of the components' offsets, in a latent dimension


class MixtureNormal(Family):
    r"""A mixture of C = `num_components` diagonal normals, λ = (logits π, m, log s), P = C (2 D + 1).

    .. math::
        q(z \mid \lambda) = \sum_c \pi_c \, \mathcal{N}(z \mid m_c + o_c, \, \tfrac34 \, \mathrm{diag}(s_c^2))

    m and log s run component by component. Equal components would receive equal gradients for ever, so each has its
    fixed offset o_c, of mean 0 and mean square 1/4 in every dimension, the same in every process: then λ = 0 has mean
    0 and variance 1 (to the scale floor of 1e-5), with components apart. A single component has neither offset nor the
    3/4, and is `DiagonalNormal`. Draws are differentiable by implicit reparameterisation: see `ReparameterizedMixture`.

    Reference:
        Implicit Reparameterization Gradients (Figurnov, Mohamed & Mnih, 2018), arXiv:1805.08498

    >>> family = MixtureNormal(3, num_components=2)
    >>> family(torch.zeros(7, family.num_params)).rsample().shape
    torch.Size([7, 3])
    """

    offsets: Tensor

    @validated
    def __init__(self, z_dim: PositiveInt, *, num_components: PositiveInt = 4) -> None:
        super().__init__(z_dim)
        self.num_components = num_components
        self.num_params = num_components * (2 * z_dim + 1)
        self.shrink = 1.0 if num_components == 1 else math.sqrt(1 - SPREAD**2)
        self.register_buffer("offsets", _offsets(num_components, z_dim), persistent=False)

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        shape = self.num_components, self.z_dim
        size = self.num_components * self.z_dim
        logits, flat_loc, flat_log_scale = params.split([self.num_components, size, size], -1)
        loc = flat_loc.unflatten(-1, shape) + self.offsets.to(params.dtype)  # (..., C, D)
        scale = self.shrink * positive_scale(flat_log_scale.unflatten(-1, shape))  # (..., C, D)
        return ReparameterizedMixture(dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1))


def _offsets(num_components: int, z_dim: int) -> Tensor:
    """(C, D) of column mean 0 and column mean square SPREAD²; all zero for one component."""
    generator = torch.Generator().manual_seed(0)  # its own: no one else's draws depend on the family
    draws = torch.randn(num_components, z_dim, generator=generator, dtype=torch.float64)
    centred = draws - draws.mean(0)
    size = centred.square().mean(0).sqrt().clamp_min(1e-12)
    return (SPREAD * centred / size).float()

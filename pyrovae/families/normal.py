"""Normals with correlations, all of them or a few, and mixtures of normals."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..distributions.mixture import ReparameterizedMixture
from ..distributions.numerics import MIN_SCALE, positive_scale, scale_slope
from ..validation import PositiveInt, validated
from .base import Family

MAX_NORM = 100.0  # of U: the condition of I + UᵀU stays below 10⁴, and float32 factors it, whatever D and R
INIT_FACTOR = 0.1  # standard deviation of the first U
SPREAD = 0.5  # root mean square of the components' offsets, in a latent dimension


class FullNormal(Family):
    r"""A normal with any covariance, λ = (μ, log s, strict lower triangle of N), P = D (D + 3) / 2.

    .. math:: q(z \mid \lambda) = \mathcal{N}(z \mid \mu, L L^\top), \qquad L = \mathrm{diag}(s) \, (I + N / \sqrt D)

    Correlations are relative to the scales, and no row of N outweighs its diagonal by being long: with entries of L
    themselves in λ, what an encoder or a loop does not yet know of them is noise on z that drowns small scales.
    λ = 0 is the standard normal (to the scale floor of 1e-5). The triangle runs row by row.

    Reference:
        An Introduction to Variational Autoencoders (Kingma & Welling, 2019), section 2.5.1, arXiv:1906.02691

    >>> family = FullNormal(3)
    >>> family(torch.zeros(7, family.num_params)).covariance_matrix.shape
    torch.Size([7, 3, 3])
    """

    rows: Tensor
    columns: Tensor

    @validated
    def __init__(self, z_dim: PositiveInt) -> None:
        super().__init__(z_dim)
        self.num_params = z_dim * (z_dim + 3) // 2
        self.unit = z_dim**-0.5  # of N
        for name, index in zip(("rows", "columns"), torch.tril_indices(z_dim, z_dim, offset=-1), strict=True):
            self.register_buffer(name, index, persistent=False)

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        loc, log_scale, lower = self._split(params)
        scale = positive_scale(log_scale)  # (..., D)
        return dist.MultivariateNormal(loc, scale_tril=scale[..., None] * self._relative(scale, lower))

    def params_of(self, loc: Tensor, scale_tril: Tensor) -> Tensor:
        """The row λ (..., P) of N(μ, L Lᵀ); entries of diag L below the scale floor are raised to it."""
        log_scale = (scale_tril.diagonal(dim1=-2, dim2=-1) - MIN_SCALE).clamp_min(MIN_SCALE * 1e-3).log()
        relative = scale_tril / positive_scale(log_scale)[..., None]
        return torch.cat([loc, log_scale, relative[..., self.rows, self.columns] / self.unit], -1)

    def natural_gradient(self, params: Tensor, grad: Tensor) -> Tensor:
        return self._natural(params, grad, 1.0)

    def natural_step(self, params: Tensor, grad: Tensor, lr: Tensor, num_draws: int) -> Tensor:
        # One draw ε tells of the correlations along one of D directions, and noise of ε εᵀ is fed back to them: of
        # η E ε εᵀ the mean square error falls by (1 - η)² + η² (D + 1) / S, least at this share, and grows at twice it.
        share = num_draws / (num_draws + self.z_dim + 1)
        return self._natural(params, grad, (share / lr).clamp(max=1)[..., None])

    def _natural(self, params: Tensor, grad: Tensor, share: Tensor | float) -> Tensor:
        """The natural gradient, of which correlations take a share."""
        _, log_scale, lower = self._split(params)
        grad_loc, grad_log_scale, grad_lower = self._split(grad)
        scale, slope = positive_scale(log_scale), scale_slope(log_scale)  # (..., D)
        relative = self._relative(scale, lower)
        L = scale[..., None] * relative  # noqa: N806 - (..., D, D)
        # The gradient by L: N_ij moves L_ij alone, s_i the whole row.
        by_lower = self._triangle(torch.zeros_like(scale), grad_lower / self.unit) / scale[..., None]
        by_scale = grad_log_scale / slope - (by_lower * relative).sum(-1)
        # In coordinates A, dL = L A, the Fisher information is diagonal: 2 on the diagonal of A, 1 below it.
        A = (L.mT @ (by_lower + torch.diag_embed(by_scale))).tril()  # noqa: N806
        diagonal = torch.diag_embed(A.diagonal(dim1=-2, dim2=-1))
        direction = L @ (share * (A - diagonal) + diagonal / 2)
        scale_step = direction.diagonal(dim1=-2, dim2=-1)
        lower_step = (direction - scale_step[..., None] * relative) / (self.unit * scale[..., None])
        loc_step = (L @ (L.mT @ grad_loc[..., None]))[..., 0]
        return torch.cat([loc_step, scale_step / slope, lower_step[..., self.rows, self.columns]], -1)

    def _split(self, params: Tensor) -> tuple[Tensor, ...]:
        """What stands in a row: μ (..., D), log s (..., D), the strict triangle of N."""
        return params.split([self.z_dim, self.z_dim, len(self.rows)], -1)

    def _relative(self, scale: Tensor, lower: Tensor) -> Tensor:
        """I + N / √D (..., D, D)."""
        return self._triangle(torch.ones_like(scale), self.unit * lower)

    def _triangle(self, diagonal: Tensor, lower: Tensor) -> Tensor:
        """The lower triangular matrix (..., D, D) with these entries."""
        matrix = torch.diag_embed(diagonal)
        matrix[..., self.rows, self.columns] = lower
        return matrix


class ConditionedLowRankNormal(dist.LowRankMultivariateNormal):
    r"""A normal of mean `loc` and covariance A (I + U Uᵀ) A, with A = diag(`scale`) and U = `factor` (..., D, R).

    `LowRankMultivariateNormal` checks the factorisation of the capacitance I + UᵀU. As it is well conditioned, that is
    left out: a check waits for a GPU at every step, and keeps a compiled graph from being cached on disk.

    >>> ConditionedLowRankNormal(torch.zeros(3), torch.ones(3, 1), torch.ones(3)).variance
    tensor([2., 2., 2.])
    """

    def __init__(self, loc: Tensor, factor: Tensor, scale: Tensor) -> None:
        self.loc, self.cov_factor, self.cov_diag = loc, scale.unsqueeze(-1) * factor, scale.square()
        self._unbroadcasted_cov_factor, self._unbroadcasted_cov_diag = self.cov_factor, self.cov_diag
        capacitance = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device) + factor.mT @ factor
        self._capacitance_tril = torch.linalg.cholesky_ex(capacitance).L  # (..., R, R)
        torch.distributions.Distribution.__init__(self, loc.shape[:-1], loc.shape[-1:])

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return super().expand(batch_shape, self._get_checked_instance(ConditionedLowRankNormal, _instance))


class LowRankNormal(Family):
    r"""A normal whose correlations have a factor of rank R = `rank`, λ = (μ, log s, V), P = D (R + 2).

    .. math:: q(z \mid \lambda) = \mathcal{N}(z \mid \mu, \, A (I + U U^\top) A), \qquad
        U = V / \sqrt{1 + \lVert V \rVert^2 / 100^2}, \quad A = \mathrm{diag}(s_d / \sqrt{1 + \lVert U_d \rVert^2})

    s are the standard deviations of z, and U, (D, R), makes correlations alone: the R × R capacitance I + UᵀU, which a
    density factors, depends on neither scale. V runs row by row, a row per latent dimension. λ = 0 is the standard
    normal (to the scale floor of 1e-5), and R = D - 1 is enough for any covariance.

    Reference:
        Gaussian variational approximation with a factor covariance structure (Ong et al., 2018), arXiv:1701.03208

    >>> family = LowRankNormal(50, rank=2)
    >>> family.num_params, family(torch.randn(7, 200)).rsample().shape
    (200, torch.Size([7, 50]))
    """

    @validated
    def __init__(self, z_dim: PositiveInt, *, rank: PositiveInt = 4) -> None:
        super().__init__(z_dim)
        self.rank = rank
        self.num_params = z_dim * (rank + 2)

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        d = self.z_dim
        loc, log_scale, flat = params.split([d, d, d * self.rank], -1)
        factor = flat.unflatten(-1, (d, self.rank))  # (..., D, R)
        square_norm = factor.square().sum((-2, -1), keepdim=True)
        factor = factor * (1 + square_norm / MAX_NORM**2).rsqrt()
        scale = positive_scale(log_scale) * (1 + factor.square().sum(-1)).rsqrt()  # (..., D)
        return ConditionedLowRankNormal(loc, factor, scale)

    def init_params(self) -> Tensor:
        """Mean 0, variance 1, and slight correlations, drawn from torch's generator.

        U and -U are the same q, so at U = 0 the mean gradient of U vanishes, and a loop would leave it by noise alone.
        """
        return torch.cat([torch.zeros(2 * self.z_dim), INIT_FACTOR * torch.randn(self.z_dim * self.rank)])


class MixtureNormal(Family):
    r"""A mixture of C = `num_components` diagonal normals, λ = (logits π, m, log s), P = C (2 D + 1).

    .. math:: q(z \mid \lambda) = \sum_c \pi_c \, \mathcal{N}(z \mid m_c + o_c, \, \tfrac34 \, \mathrm{diag}(s_c^2))

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
        logits, rest = params.tensor_split([self.num_components], -1)
        loc, log_scale = rest.unflatten(-1, (2, self.num_components, self.z_dim)).unbind(-3)  # (..., C, D)
        loc, scale = loc + self.offsets.to(params.dtype), self.shrink * positive_scale(log_scale)
        return ReparameterizedMixture(dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1))


def _offsets(num_components: int, z_dim: int) -> Tensor:
    """(C, D) of column mean 0 and column mean square SPREAD²; all zero for one component."""
    generator = torch.Generator().manual_seed(0)  # its own: no one else's draws depend on the family
    draws = torch.randn(num_components, z_dim, generator=generator, dtype=torch.float64)
    centred = draws - draws.mean(0)
    size = centred.square().mean(0).sqrt().clamp_min(1e-12)
    return (SPREAD * centred / size).float()

"""Refinement by Gauss-Newton steps to the posterior's mode."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from ..distributions import full_precision
from ..families import Family, FullNormal
from ..models import VAE
from ..validation import PositiveFloat, PositiveInt, validated
from .elbo import Rows
from .refiner import Refiner
from .steps import Settings, Step

MIN_BETA = 1e-3  # at β = 0 the posterior has no scale
SLACK = 16  # roundings of log p(x, z) that are no loss: near the mode a good step gains less than they lose


class GaussNewtonRefiner(Refiner):
    r"""The Laplace approximation: K Gauss-Newton steps from the mean of q to the mode, and q is the normal there.

    .. math:: q(z \mid x) = \mathcal{N}(z^*, \Lambda^{-1}), \qquad
        \Lambda = \tfrac1\beta J(z^*)^\top R \, J(z^*) + P

    J is the decoder's Jacobian, R the likelihood's Fisher information of its output, P the prior's precision. For a
    linear decoder and a normal likelihood one step finds the exact posterior. A step that lowers a datapoint's joint
    density is not taken, and half of it is tried next. No draw is taken but for the safeguard's scores. The decoder
    runs forwards along all D latent dimensions, K + 1 times: for D up to a hundred or so.

    Args:
        num_steps: K.
        lr: The largest share η of a step; below 1 the steps are damped.
        safeguard, score_particles: As in `SVIRefiner`.

    Raises:
        ValueError: From `check`: no `FullNormal`, no `VAE`, or a prior that is no diagonal normal.

    Reference:
        Variational Laplace Autoencoders (Park et al., 2019), ICML, arXiv:2211.17267

    >>> import pyrovae as pv
    >>> model, family, x = pv.models.mlp((4,), z_dim=2), pv.FullNormal(2), torch.ones(8, 4)
    >>> inferred = pv.GaussNewtonRefiner()(model, family, x, torch.zeros(8, family.num_params))
    >>> family(inferred.params).covariance_matrix.shape
    torch.Size([8, 2, 2])
    """

    @validated
    def __init__(
        self, *, num_steps: PositiveInt = 4, lr: PositiveFloat = 1.0, safeguard: bool = True,
        score_particles: PositiveInt = 4,
    ) -> None:  # fmt: skip
        self.num_steps, self.lr = num_steps, lr
        self.safeguard, self.score_particles = safeguard, score_particles

    def check(self, model: nn.Module, family: Family) -> None:
        if not isinstance(family, FullNormal):
            name = type(family).__name__
            raise ValueError(f"gauss_newton finds a full covariance, got {name}; use FullNormal, or SVIRefiner")
        if not isinstance(model, VAE):
            raise ValueError(f"gauss_newton needs the decoder of a VAE, got {type(model).__name__}; use SVIRefiner")
        prior = model.prior()
        if not (isinstance(prior, Independent) and isinstance(prior.base_dist, Normal)):
            raise ValueError(f"gauss_newton needs a normal prior, got {type(model.prior).__name__}; use StandardNormal")

    def make_step(self, model: nn.Module, family: Family) -> "GaussNewtonStep":
        return GaussNewtonStep(cast(VAE, model), cast(FullNormal, family))


class GaussNewtonState(NamedTuple):
    """Of `GaussNewtonStep`."""

    params: Tensor  # (B, P) λ
    log_joint: Tensor  # (B,) of x and the mean of q, by β
    newton: Tensor  # (B, D) the step to take from there
    share: Tensor  # (B,) η of it


@dataclass(eq=False, repr=False)
class GaussNewtonStep(Step[GaussNewtonState]):
    r"""A step of z towards the mode of the joint density, and q around where it leads.

    .. math:: z' = z + \eta \Lambda^{-1} \nabla_z \big(\tfrac1\beta \log p(x \mid z) + \log p(z)\big)
    """

    model: VAE
    family: FullNormal
    num_looks = 1  # finds the density and the direction at the mean of q

    def init(self, params: Tensor) -> GaussNewtonState:
        rows, newton = params[:, 0], torch.zeros_like(params[:, : self.family.z_dim])
        return GaussNewtonState(params, torch.full_like(rows, -torch.inf), newton, torch.ones_like(rows))

    def __call__(self, x: Tensor, settings: Settings, state: GaussNewtonState, prior: Rows = None) -> GaussNewtonState:
        if prior is not None:
            raise ValueError("gauss_newton takes the model's prior, not one that is carried; use SVIRefiner")
        z = state.params[:, : self.family.z_dim] + settings.lr * state.share[:, None] * state.newton
        new, valid = self.laplace(x, z, settings.beta)
        floor = state.log_joint - SLACK * torch.finfo(x.dtype).eps * state.log_joint.abs()
        rises = valid & (new.log_joint >= floor)  # (B,) false for NaN
        return GaussNewtonState(
            torch.where(rises[:, None], new.params, state.params),
            torch.where(rises, new.log_joint, state.log_joint),
            torch.where(rises[:, None], new.newton, state.newton),
            torch.where(rises, (2 * state.share).clamp(max=1), state.share / 2),
        )

    def laplace(self, x: Tensor, z: Tensor, beta: Tensor) -> tuple[GaussNewtonState, Tensor]:
        """The Laplace approximation at z (B, D), with Gauss and Newton's Hessian, and whether it is finite (B,)."""
        h, jacobian = _jacobian(lambda z: self.model.decoder(z).to(z.dtype), z)
        with torch.enable_grad(), full_precision(z), pyro.validation_enabled(False):
            h = h.detach().requires_grad_()
            likelihood: Any = self.model.likelihood
            log_lik = likelihood(h).log_prob(x)  # (B,)
            (slope,) = torch.autograd.grad(log_lik.sum(), h)
            information = likelihood.information(h.detach())
            prior: Any = self.model.prior()
            precision, beta = prior.variance.reciprocal(), beta.clamp_min(MIN_BETA)  # (D,), ()
            J = jacobian.flatten(2).transpose(0, 1)  # noqa: N806 - (B, D, pixels)
            grad = (J @ slope.flatten(1)[..., None])[..., 0] / beta - precision * (z - prior.mean)  # (B, D)
            hessian = (J * information.flatten(1)[:, None]) @ J.mT / beta + torch.diag_embed(precision)
            L, failed = _scale_tril(hessian)  # noqa: N806
            newton = (L @ (L.mT @ grad[..., None]))[..., 0]
            params = self.family.params_of(z, L)
            log_joint = log_lik.detach() / beta + prior.log_prob(z)
        valid = ~failed & params.isfinite().all(-1) & newton.isfinite().all(-1) & log_joint.isfinite()
        return GaussNewtonState(params, log_joint, newton, torch.ones_like(log_joint)), valid


def _jacobian(function: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    """`function(z)`, (B, *x_shape), and its derivative along each dimension of z, (D, B, *x_shape)."""

    def along(direction: Tensor) -> Any:
        return torch.func.jvp(function, (z,), (direction.expand_as(z),))

    basis = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    out_dims: Any = None, 0  # the value does not depend on the direction
    return torch.func.vmap(along, out_dims=out_dims)(basis)


def _scale_tril(precision: Tensor) -> tuple[Tensor, Tensor]:
    """L (B, D, D) with L Lᵀ the inverse, and whether that failed (B,)."""
    # The sum over pixels is rounded; this much more on the diagonal keeps it positive definite.
    jitter = 4 * precision.shape[-1] * torch.finfo(precision.dtype).eps
    precision = precision + torch.diag_embed(jitter * precision.diagonal(dim1=-2, dim2=-1))
    flipped, info = torch.linalg.cholesky_ex(precision.flip(-2, -1))
    upper = flipped.flip(-2, -1)  # precision = upper upperᵀ, so that L = upper⁻ᵀ is lower triangular
    eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device).expand_as(precision)
    return torch.linalg.solve_triangular(upper.mT, eye, upper=False), info != 0

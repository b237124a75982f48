"""Refinement by Gauss-Newton steps to the posterior's mode."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from ..capture import Capture
from ..distributions import full_precision
from ..families import Family, FullNormal
from ..models import VAE
from .elbo import Terms, frozen
from .refiner import Inferred, Programs, Refiner, captured_score, check_rows, keep_better, scalar
from .steps import Slots

MIN_BETA = 1e-3  # at β = 0 the posterior has no scale
SLACK = 16  # roundings of log p(x, z) that are no loss: near the mode a good step gains less than they lose


class Laplace(NamedTuple):
    """What a VAE's joint density is like around z."""

    log_joint: Tensor  # (B,) of x and z, by β
    params: Tensor  # (B, P) λ of the normal with mean z and the curvature there
    newton: Tensor  # (B, D) from z to that normal's idea of the mode
    valid: Tensor  # (B,) whether all this is finite


class GaussNewtonStep:
    r"""A step of z towards the mode of the joint density, and q around where it leads, as a function of tensors.

    .. math:: z' = z + \eta \Lambda^{-1} \nabla_z \big(\tfrac1\beta \log p(x \mid z) + \log p(z)\big), \qquad
        \Lambda = \tfrac1\beta J^\top R J + P

    J is the decoder's Jacobian, R the likelihood's Fisher information of its output, P the prior's precision. Where the
    joint density falls, the datapoint stays and tries half that step the next time.

    Args:
        model: Held fixed.
        family: Turns λ into q.
    """

    def __init__(self, model: VAE, family: FullNormal) -> None:
        self.model = model
        self.family = family

    def init(self, params: Tensor) -> Slots:
        """The state of a loop that starts at λ (B, P): λ, log p(x, z), the step to take from z, and the share η of it.

        The first step is none: it finds the density and the direction at the mean of q.
        """
        rows = params[:, 0]
        return params, torch.full_like(rows, -torch.inf), torch.zeros_like(self.loc(params)), torch.ones_like(rows)

    def loc(self, params: Tensor) -> Tensor:
        """The mean (B, D) of q."""
        return params[:, : self.family.z_dim]

    def __call__(self, x: Tensor, beta: Tensor, lr: Tensor, *state: Tensor) -> Slots:
        """The next state; β and the largest η are tensors of shape ()."""
        params, log_joint, newton, share = state
        new = self.laplace(x, self.loc(params) + lr * share[:, None] * newton, beta)
        floor = log_joint - SLACK * torch.finfo(x.dtype).eps * log_joint.abs()
        rises = new.valid & (new.log_joint >= floor)  # (B,) false for NaN
        return (
            torch.where(rises[:, None], new.params, params),
            torch.where(rises, new.log_joint, log_joint),
            torch.where(rises[:, None], new.newton, newton),
            torch.where(rises, (2 * share).clamp(max=1), share / 2),
        )

    def laplace(self, x: Tensor, z: Tensor, beta: Tensor) -> Laplace:
        """The Laplace approximation at z (B, D), whose Hessian is Gauss and Newton's."""
        h, jacobian = _jacobian(lambda z: self.model.decoder(z).to(z.dtype), z)
        with full_precision(z), pyro.validation_enabled(False):
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
        return Laplace(log_joint, params, newton, valid)


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


class GaussNewtonRefiner(Refiner):
    r"""The Laplace approximation: K Gauss-Newton steps from the mean of q to the mode, and q is the normal there.

    .. math:: q(z \mid x) = \mathcal{N}(z^*, \Lambda^{-1}), \qquad
        \Lambda = \tfrac1\beta J(z^*)^\top R \, J(z^*) + P

    J is the decoder's Jacobian, R the likelihood's Fisher information of its output, P the prior's precision. For a
    linear decoder and a normal likelihood one step finds the exact posterior. A step that lowers a datapoint's joint
    density is not taken, and half of it is tried next. No draw is taken but for the safeguard's scores.

    A call runs the decoder forwards along all D latent dimensions, K + 1 times: it is for D up to a hundred or so.

    Args:
        num_steps: K.
        lr: The largest share η of a step; below 1 the steps are damped.
        safeguard: Score λ₀ and λ_K under common noise, and keep λ₀ where λ_K is worse or not finite.
        score_particles: Draws of z a datapoint for those scores.

    Raises:
        ValueError: A number out of range; from `check`, a family other than `FullNormal`, a model that is no `VAE`, or
            a prior that is no diagonal normal.

    Reference:
        Variational Laplace Autoencoders (Park et al., 2019), ICML, arXiv:2211.17267
    """

    def __init__(
        self,
        *,
        num_steps: PositiveInt = 4,
        lr: PositiveFloat = 1.0,
        safeguard: bool = True,
        score_particles: PositiveInt = 4,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps must be >= 1, got {num_steps}; use AmortizedGuide for no refinement")
        if not lr > 0:
            raise ValueError(f"lr must be > 0, got {lr}; 1 takes whole steps")
        if score_particles < 1:
            raise ValueError(f"score_particles must be >= 1, got {score_particles}")
        self.num_steps = num_steps
        self.lr = lr
        self.safeguard = safeguard
        self.score_particles = score_particles
        self._programs: Programs = Programs()

    def check(self, model: nn.Module, family: Family) -> None:
        if not isinstance(family, FullNormal):
            found = type(family).__name__
            raise ValueError(f"gauss_newton finds a full covariance, got {found}; use FullNormal, or SVIRefiner")
        if not isinstance(model, VAE):
            raise ValueError(f"gauss_newton needs the decoder of a VAE, got {type(model).__name__}; use SVIRefiner")
        prior = model.prior()
        if not (isinstance(prior, Independent) and isinstance(prior.base_dist, Normal)):
            raise ValueError(f"gauss_newton needs a normal prior, got {type(model.prior).__name__}; use StandardNormal")

    def __call__(
        self,
        model: nn.Module,
        family: Family,
        x: Tensor,
        params: Tensor,
        beta: float | Tensor = 1.0,
        record: bool = False,
    ) -> Inferred:
        check_rows(family, x, params)
        # Lightning validates under inference mode, where autograd is off.
        with torch.inference_mode(False), torch.enable_grad(), frozen(model), frozen(family):
            x = x.clone() if x.is_inference() else x
            start = params.detach().clone()
            make = (model, family), self.score_particles
            step, capture, score = self._programs.get(lambda: self._make_programs(model, family), *make)
            state, path = step.init(start), [start]
            scalars = scalar(beta, start), scalar(self.lr, start)
            advance = capture.bind(x, *scalars, *state, calls=self.num_steps + 1)
            for k in range(self.num_steps + 1):  # the first takes no step
                state = advance(x, *scalars, *state)
                if record and k > 0:
                    path.append(state[0])
            kept = Inferred(params, state[0])
            if self.safeguard:
                scored = score.bind(x, start, calls=2)
                kept = keep_better(lambda row: Terms(*scored(x, row)), params, start, state[0], beta)
        return kept._replace(path=torch.stack(path) if record else None)

    def _make_programs(self, model: nn.Module, family: Family) -> tuple[GaussNewtonStep, Capture, Capture]:
        self.check(model, family)  # a loop may be called without a guide
        assert isinstance(model, VAE) and isinstance(family, FullNormal)  # noqa: PT018 - which mypy cannot know
        step = GaussNewtonStep(model, family)
        return (
            step,
            Capture(step, model, family, name="the Gauss-Newton step"),
            captured_score(model, family, self.score_particles),
        )

"""Refinement by Gauss-Newton steps to the posterior's mode."""

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from ..capture import Capture
from ..families import Family, FullNormal
from ..models import VAE
from .elbo import Terms
from .frozen import frozen
from .gauss_newton_step import GaussNewtonStep
from .programs import Programs, scalar
from .refiner import Inferred, Refiner, check_rows
from .safeguard import captured_score, keep_better


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
        self._programs: Programs[tuple[GaussNewtonStep, Capture, Capture]] = Programs()

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

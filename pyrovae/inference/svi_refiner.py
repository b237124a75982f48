"""Refinement by an inner `pyro.infer.SVI`."""

from collections.abc import Callable
from typing import Literal

import pyro
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from pyro import poutine
from pyro.infer import SVI
from pyro.nn import PyroModule, PyroParam
from pyro.optim import SGD, Adam, PyroOptim
from torch import Tensor, nn

from ..families import Family
from .elbo import ELBO, common_noise_terms
from .frozen import frozen
from .refiner import Inferred, Refiner


class _LocalGuide(PyroModule):
    """A throw-away guide whose one parameter is λ."""

    def __init__(self, family: Family, params: Tensor) -> None:
        super().__init__()
        self._family = (family,)  # in a tuple: a family's own parameters are not the loop's to move
        self.params = PyroParam(params)

    def forward(self, x: Tensor) -> None:
        self._family[0].sample(self.params)


class SVIRefiner(Refiner):
    r"""K steps of stochastic variational inference on per-datapoint parameters.

    .. math:: \lambda_{k+1} = \lambda_k + \eta \, \nabla_\lambda \sum_i L_\beta(x_i, \lambda_{k,i})

    A genuine `pyro.infer.SVI` over a local guide. The objective is the sum over the batch and clipping is row by row,
    so a datapoint ends at the same λ alone and in any batch, given the same noise. Gradients are taken with respect to
    λ alone: the model's parameters neither move nor collect gradient.

    Args:
        num_steps: K.
        lr: Step size η.
        optimizer: `adam`, or `sgd` with `momentum`.
        momentum: For `sgd`.
        num_particles: Draws of z a datapoint and step.
        path_gradient: Leave out the gradient's score term, whose mean is zero: less noise, and none at the exact
            posterior.
        clip: Largest Euclidean norm of one datapoint's gradient, in nats per unit of λ; none by default.
        safeguard: Score λ₀ and λ_K under common noise, and keep λ₀ where λ_K is worse or not finite.
        score_particles: Draws of z a datapoint for those scores. With few, noise sends many a good λ_K back.

    Raises:
        ValueError: A number out of range, or an unknown optimizer.

    References:
        Stochastic Variational Inference (Hoffman et al., 2013), arXiv:1206.7051
        Semi-Amortized Variational Autoencoders (Kim et al., 2018), arXiv:1802.02550
        Sticking the Landing (Roeder et al., 2017), arXiv:1703.09194
    """

    def __init__(
        self,
        *,
        num_steps: PositiveInt = 10,
        lr: PositiveFloat = 0.03,
        optimizer: Literal["adam", "sgd"] = "adam",
        momentum: NonNegativeFloat = 0.5,
        num_particles: PositiveInt = 1,
        path_gradient: bool = True,
        clip: PositiveFloat | None = None,
        safeguard: bool = True,
        score_particles: PositiveInt = 4,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps must be >= 1, got {num_steps}; use AmortizedGuide for no refinement")
        for name, value in (("num_particles", num_particles), ("score_particles", score_particles)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not lr > 0:
            raise ValueError(f"lr must be > 0, got {lr}")
        if optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer must be adam or sgd, got {optimizer!r}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be > 0, got {clip}; leave it out for no clipping")
        self.num_steps = num_steps
        self.lr = lr
        self.optimizer = optimizer
        self.momentum = momentum
        self.num_particles = num_particles
        self.path_gradient = path_gradient
        self.clip = clip
        self.safeguard = safeguard
        self.score_particles = score_particles

    def __call__(
        self,
        model: nn.Module,
        family: Family,
        x: Tensor,
        params: Tensor,
        beta: float | Tensor = 1.0,
        record: bool = False,
    ) -> Inferred:
        # Lightning validates under inference mode, where autograd is off and SVI moves λ by zero.
        with torch.inference_mode(False), torch.enable_grad(), frozen(model):
            x = x.clone() if x.is_inference() else x
            start = params.detach().clone()
            refined, path = self._loop(model, family, x, start, beta, record)
            if not self.safeguard:
                return Inferred(params, refined, path=path)
            terms_init, terms = common_noise_terms(model, family, x, start, refined, num_particles=self.score_particles)
            # Written so that NaN, which compares false with everything, counts as worse.
            better = (terms.elbo(beta) >= terms_init.elbo(beta)) & refined.isfinite().all(-1)
            refined = torch.where(better[:, None], refined, start)
            terms = type(terms)(*(torch.where(better, new, old) for new, old in zip(terms, terms_init, strict=True)))
        return Inferred(params, refined, terms_init, terms, ~better, path)

    def _loop(
        self, model: nn.Module, family: Family, x: Tensor, start: Tensor, beta: float | Tensor, record: bool
    ) -> tuple[Tensor, Tensor | None]:
        elbo = ELBO(self.num_particles, beta, path_gradient=self.path_gradient)
        guide = _LocalGuide(family, start.clone())
        leaf = guide.params_unconstrained

        def loss_and_grads(model: Callable, guide: Callable, x: Tensor) -> float:
            loss = elbo.differentiable_loss(model, guide, x)
            (grad,) = torch.autograd.grad(loss, leaf)
            leaf.grad = grad if self.clip is None else _clip_rows(grad, self.clip)
            return 0.0  # a number, because SVI.step would call .item() on a tensor

        # Blocked, so that SVI sees λ and nothing else to step.
        local_model = poutine.block(model, hide_types=["param"])
        svi = SVI(local_model, guide, self._optim(), loss=elbo.loss, loss_and_grads=loss_and_grads)
        path = [start]
        with pyro.validation_enabled(False):
            for _ in range(self.num_steps):
                svi.step(x)
                if record:
                    path.append(leaf.detach().clone())
        return leaf.detach(), torch.stack(path) if record else None

    def _optim(self) -> PyroOptim:
        if self.optimizer == "adam":
            return Adam({"lr": self.lr})
        return SGD({"lr": self.lr, "momentum": self.momentum})


def _clip_rows(grad: Tensor, clip: float) -> Tensor:
    """Rescales each row of `grad` to a norm of at most `clip`."""
    norm = grad.norm(dim=-1, keepdim=True)
    return grad * (clip / norm.clamp_min(clip))

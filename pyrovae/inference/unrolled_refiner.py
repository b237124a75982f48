"""Refinement that gradients come back through."""

import re
import sys
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ..families import Family
from .elbo import Terms
from .frozen import frozen
from .programs import Programs, scalar
from .refiner import Inferred, Refiner, check_rows
from .safeguard import keep_better
from .svi_refiner import SVIRefiner
from .unrolled_loop import UnrolledLoop
from .unrolled_step import weights

Gradient = Annotated[str, Field(pattern=r"^(unrolled|truncated\(\d+\)|first_order|none)$")]


class UnrolledRefiner(Refiner):
    r"""`SVIRefiner`, differentiable: the ELBO at λ_K teaches what proposed λ₀, and the model through the loop too.

    .. math:: \frac{d L(\lambda_K, \theta)}{d \theta} = \frac{\partial L}{\partial \theta} + \frac{\partial L}{\partial
        \lambda_K} \frac{d \lambda_K}{d \theta}, \qquad \frac{d L}{d \lambda_0} = \frac{\partial L}{\partial \lambda_K}
        \prod_k \frac{\partial \lambda_{k+1}}{\partial \lambda_k}

    The values are those of `SVIRefiner` from the same noise; where autograd is off, at evaluation, it is that refiner.

    Args:
        gradient: `unrolled` through all K steps; `truncated(n)` through the last n, the others counting as the
            identity; `first_order` through none, λ_K = λ₀ + const; `none` as with `SVIRefiner`, whereupon the guide's
            `encoder_loss` teaches.
        num_steps, lr, momentum, num_particles, path_gradient, clip, lr_decay, safeguard, score_particles: As in
            `SVIRefiner`.
        optimizer: `sgd` with `momentum`, or `adam`.
        checkpoint: Keep the states of λ only and run each step again in the backward pass: memory grows with K by a few
            rows, not by the networks' activations. Always so where the engine compiles.

    Raises:
        ValueError: A number out of range, an unknown `gradient` or optimizer; from `check`, path gradients with a
            family that has densities of its own draws alone.

    References:
        Semi-Amortized Variational Autoencoders (Kim et al., 2018), algorithm 2, arXiv:1802.02550
        Truncated Back-propagation for Bilevel Optimization (Shaban et al., 2019), arXiv:1810.10667
        On First-Order Meta-Learning Algorithms (Nichol et al., 2018), arXiv:1803.02999
    """

    def __init__(
        self,
        *,
        gradient: Gradient = "unrolled",
        num_steps: PositiveInt = 10,
        lr: PositiveFloat = 0.01,
        optimizer: Literal["sgd", "adam"] = "sgd",
        momentum: NonNegativeFloat = 0.5,
        num_particles: PositiveInt = 1,
        path_gradient: bool = True,
        clip: PositiveFloat | None = None,
        lr_decay: Literal["none", "linear"] = "none",
        checkpoint: bool = False,
        safeguard: bool = False,
        score_particles: PositiveInt = 4,
    ) -> None:
        _depth(gradient)
        self.gradient = gradient
        self.checkpoint = checkpoint
        self.loop = SVIRefiner(
            num_steps=num_steps,
            lr=lr,
            optimizer=optimizer,
            momentum=momentum,
            num_particles=num_particles,
            path_gradient=path_gradient,
            clip=clip,
            lr_decay=lr_decay,
            safeguard=safeguard,
            score_particles=score_particles,
        )
        self._loops: Programs[UnrolledLoop] = Programs()

    def check(self, model: nn.Module, family: Family) -> None:
        self.loop.check(model, family)
        if self.loop.path_gradient and _depth(self.gradient) > 0 and not family.scores_any_draw:
            raise ValueError(
                f"gradient {self.gradient} needs, with path gradients, the density of draws from another λ, which "
                f"{type(family).__name__} lacks; set path_gradient=False"
            )

    def __call__(
        self,
        model: nn.Module,
        family: Family,
        x: Tensor,
        params: Tensor,
        beta: float | Tensor = 1.0,
        record: bool = False,
    ) -> Inferred:
        differentiated = torch.is_grad_enabled() and (params.requires_grad or weights(model, family))
        if self.gradient == "none" or not differentiated:
            return self.loop(model, family, x, params, beta, record)
        check_rows(family, x, params)
        x = x.detach().clone() if x.is_inference() else x.detach()
        step, capture, score = self.loop.programs(model, family)
        unroll = self._loops.get(lambda: UnrolledLoop(model, family, step, capture), (model, family, step))
        num_steps = self.loop.num_steps
        scalars = [scalar(value, params.detach()) for value in (beta, self.loop.lr, num_steps)]
        path = unroll(x, params, scalars, num_steps, min(_depth(self.gradient), num_steps), self.checkpoint)
        inferred = Inferred(params, path[-1])
        if self.loop.safeguard:
            with frozen(model), frozen(family):
                scored = score.bind(x, params.detach(), calls=2)
                inferred = keep_better(lambda row: Terms(*scored(x, row)), params, params, path[-1], beta)
        return inferred._replace(path=torch.stack(path).detach() if record else None)


def _depth(gradient: str) -> int:
    """Through how many of the last steps gradients go, of as many as there may be."""
    counted = re.fullmatch(r"truncated\((\d+)\)", gradient)
    if counted:
        return int(counted[1])
    try:
        return {"unrolled": sys.maxsize, "first_order": 0, "none": 0}[gradient]
    except KeyError:
        raise ValueError(
            f"gradient must be unrolled, truncated(n) for the last n steps, first_order or none, got {gradient!r}"
        ) from None

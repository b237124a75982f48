"""Gradients that come back through the loop."""

import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..capture import Capture, isolated, noise_state, set_noise_state, surroundings
from .elbo import Rows, evaluating, frozen
from .steps import Settings, SVIState, Tensors, moving, weights

Given = tuple[Tensor, Settings, Tensor, Rows]  # x, settings, λ₀ and prior


def _known(gradient: str) -> str:
    if re.fullmatch(r"stopped|unrolled|first_order|truncated\(\d+\)", gradient):
        return gradient
    raise PydanticCustomError(
        "gradient", "must be stopped, unrolled, truncated(n) for the last n steps, or first_order"
    )


Gradient = Annotated[str, AfterValidator(_known)]


def depth_of(gradient: str) -> int:
    """Through how many of the last steps gradients go, of as many as there may be.

    >>> depth_of("truncated(3)"), depth_of("first_order")
    (3, 0)
    """
    counted = re.fullmatch(r"truncated\((\d+)\)", gradient)
    return int(counted[1]) if counted else sys.maxsize if gradient == "unrolled" else 0


class Programs(NamedTuple):
    """What a loop runs for a model and family."""

    step: Any
    advance: Capture  # of the step
    pulled: Capture | None  # of its vector-Jacobian product, where it has one


def unrolled(run: Programs, given: Given, num_steps: int, depth: int, checkpoint: bool) -> Iterator[Tensor]:
    """λ (B, P) after 1, ..., K steps of `SVIStep`; the last is attached to λ₀, prior and weights.

    Gradients go through the last `depth` steps, the others counting as the identity. Those steps form one graph; or
    else, with `checkpoint` and where the step is compiled, the backward pass runs them again.
    """
    step, (x, settings, params, prior), depth = run.step, given, min(depth, num_steps)
    model, family = step.model, step.family
    state = step.init(params.detach().clone())
    fixed = None if prior is None else prior.detach()
    with frozen(model), frozen(family):
        advance = run.advance.bind(x, settings, state, fixed, calls=num_steps)
        for k in range(num_steps - depth):
            state = advance(x, settings, state, fixed)
            if k < num_steps - 1:
                yield state.params
    if depth > 0 and run.pulled is not None and (checkpoint or advance is not run.advance.function):
        with evaluating(model), evaluating(family):
            like = tuple(torch.ones_like(part) for part in moving(state))
            replay = Replay(run.pulled.bind(x, settings, state, fixed, like, calls=depth), x, settings, fixed)
        for left in reversed(range(depth)):
            replay.keep(state)
            with frozen(model), frozen(family):
                state = advance(x, settings, state, fixed)
            if left == 0:
                inputs = [params, *([] if prior is None else [prior]), *weights(model, family)]
                state = state._replace(params=_Attach.apply(state.params, replay, *inputs))
            yield state.params
        return
    state = state._replace(params=state.params + (params - params.detach()))  # attached to λ₀, and no bit changed
    if depth == 0:
        yield state.params
    for _ in range(depth):
        state = step.attached(x, settings, state, prior)
        yield state.params


class Replay:
    """The steps of a loop, to be run again, last first, each on its own noise, when gradients come back.

    Memory holds a step's state and the generator's, whatever the size of the networks.
    """

    def __init__(self, pulled: Any, x: Tensor, settings: Settings, prior: Rows) -> None:
        self.pulled, self.x, self.settings, self.prior = pulled, x, settings, prior
        self.steps: list[tuple[SVIState, Tensor]] = []
        # A backward pass runs after the forward pass's contexts are left, and for a GPU in a thread of its own.
        self.surroundings = surroundings()
        kind = x.device.type
        self.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

    def keep(self, state: SVIState) -> None:
        """Notes the state before the step that comes next, and where its noise starts."""
        self.steps.append((state, noise_state(self.x.device)))

    def back(self, grad: Tensor) -> Tensors:
        """From the gradient with respect to λ_K, that with respect to λ₀, prior and weights."""
        after, total, device = Tensors(), Tensors(), self.x.device
        now = noise_state(device)
        # Without the cache, which would keep casts of weights beyond this.
        with isolated(self.surroundings), torch.autocast(*self.autocast, cache_enabled=False):
            for state, noise in reversed(self.steps):
                set_noise_state(noise, device)
                num = len(moving(state))
                after = after or (grad.contiguous(), *(torch.zeros_like(part) for part in moving(state)[1:]))
                found = self.pulled(self.x, self.settings, state, self.prior, after)
                after, rest = found[:num], found[num:]
                total = tuple(torch._foreach_add(total, rest)) if total else rest
        set_noise_state(now, device)
        return after[0], *total


class _Attach(torch.autograd.Function):
    """A value, and where its gradients come from."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, replay: Replay, *inputs: Tensor) -> Tensor:
        ctx.replay = replay
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return None, None, *ctx.replay.back(grad)

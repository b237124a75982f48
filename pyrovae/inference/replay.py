"""Gradients through a loop of which only the states are kept."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..capture import isolated, surroundings
from ..capture.program import Function, Tensors
from .noise import noise_state, set_noise_state


class Replay:
    """The steps of a loop, to be run again, last first, each on its own noise, when gradients come back.

    Memory holds a step's arguments and the generator's state, whatever the size of the networks.

    Args:
        pull: A step's vector-Jacobian product, `UnrolledStep.pull`.
        like: Any tensor of the loop.
    """

    def __init__(self, pull: Function, like: Tensor) -> None:
        self.pull = pull
        self.device = like.device
        self.steps: list[tuple[Tensors, Tensor]] = []
        # A backward pass runs after the forward pass's contexts are left, and for a GPU in a thread of its own.
        self.surroundings = surroundings()
        kind = like.device.type
        self.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

    def keep(self, *args: Tensor) -> None:
        """Notes the arguments of the step that comes next, and where its noise starts."""
        self.steps.append((args, noise_state(self.device)))

    def attach(self, refined: Tensor, num_slots: int, *inputs: Tensor) -> Tensor:
        """λ_K = `refined` as a function of `inputs`: λ where the kept steps began, and the weights they read."""
        return _Attach.apply(refined, self, num_slots, *inputs)

    def back(self, grad: Tensor, num_slots: int) -> Tensors:
        """From the gradient with respect to λ_K, that with respect to each of the inputs."""
        found: Tensors = (grad.contiguous(), *(torch.zeros_like(grad) for _ in range(num_slots)))
        total: Tensors = ()
        now = noise_state(self.device)
        # Without the cache, which would keep casts of weights beyond this.
        with isolated(self.surroundings), torch.autocast(*self.autocast, cache_enabled=False):
            for args, noise in reversed(self.steps):
                set_noise_state(noise, self.device)
                grads = self.pull(*args, *found)
                found, of_weights = grads[: 1 + num_slots], grads[1 + num_slots :]
                total = tuple(torch._foreach_add(total, of_weights)) if total else of_weights
        set_noise_state(now, self.device)
        return found[0], *total


class _Attach(torch.autograd.Function):
    """A value, and where its gradients come from."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, replay: Replay, num_slots: int, *inputs: Tensor) -> Tensor:
        ctx.replay, ctx.num_slots = replay, num_slots
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return None, None, None, *ctx.replay.back(grad, ctx.num_slots)

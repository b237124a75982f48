"""A loop of inner steps that gradients come back through."""

import torch
from torch import Tensor, nn

from ..capture import Capture
from ..capture.program import Function
from ..families import Family
from .frozen import evaluating, frozen
from .replay import Replay
from .row_optimizers import Slots
from .svi_step import SVIStep
from .unrolled_step import UnrolledStep, weights


class UnrolledLoop:
    """K inner steps under a model and family, λ_K attached to λ₀ and to their weights.

    Args:
        model: Pyro model.
        family: Turns λ into q.
        step: The inner step.
        capture: Of that step.
    """

    def __init__(self, model: nn.Module, family: Family, step: SVIStep, capture: Capture) -> None:
        self.model = model
        self.family = family
        self.step = step
        self.capture = capture
        self.unrolled = UnrolledStep(step)
        self.pull = Capture(self.unrolled.pull, model, family, name="the gradient through the inner step")

    def __call__(
        self, x: Tensor, params: Tensor, scalars: list[Tensor], num_steps: int, depth: int, checkpoint: bool
    ) -> list[Tensor]:
        """λ₀ = `params`, ..., λ_K (B, P); the last is attached.

        Gradients go through the last `depth` steps, the others counting as the identity. Those steps form one graph; or
        else, with `checkpoint` and where the step is compiled, the backward pass runs them again.

        Args:
            x: Data.
            params: λ₀.
            scalars: β, η and K as tensors.
            num_steps: K.
            depth: Steps to differentiate.
            checkpoint: Keep states and no graph.
        """
        state = self.step.init(params.detach().clone())
        path = [state[1]]
        with frozen(self.model), frozen(self.family):
            advance = self.capture.bind(x, *scalars, *state, calls=num_steps)
            for _ in range(num_steps - depth):
                state = advance(x, *scalars, *state)
                path.append(state[1])
        if depth > 0 and (checkpoint or advance is not self.capture.function):
            return path + self._replayed(advance, x, params, scalars, state, depth)
        k, value, *rest = state
        path[-1] = value + (params - params.detach())  # attached to λ₀, and no bit of it changed
        state = k, path[-1], *rest
        for _ in range(depth):
            state = self.unrolled(x, *scalars, *state)
            path.append(state[1])
        return path

    def _replayed(
        self, advance: Function, x: Tensor, params: Tensor, scalars: list[Tensor], state: Slots, depth: int
    ) -> list[Tensor]:
        """The last `depth` of the path, run without a graph."""
        grads = [torch.ones_like(part) for part in (state[1], *state[3:])]  # to show their kind
        with evaluating(self.model), evaluating(self.family):
            replay = Replay(self.pull.bind(x, *scalars, *state, *grads, calls=depth), x)
        path = []
        with frozen(self.model), frozen(self.family):
            for _ in range(depth):
                replay.keep(x, *scalars, *state)
                state = advance(x, *scalars, *state)
                path.append(state[1])
        inputs = params, *weights(self.model, self.family)
        return [*path[:-1], replay.attach(state[1], self.step.optimizer.num_slots, *inputs)]

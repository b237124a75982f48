"""Gradients that come back through the loop."""

import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pyro
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..capture import Capture, isolated, surroundings
from ..capture.capture import Function, Tensors
from ..families import Family
from .elbo import ELBO, Terms, evaluating, frozen, noise_state, set_noise_state
from .refiner import Inferred, Programs, Refiner, SVIRefiner, check_rows, keep_better, scalar
from .steps import Slots, SVIStep


class UnrolledStep:
    r"""`SVIStep`, attached to λ_k, to the optimizer's slots and to the weights of model and family.

    .. math:: \lambda_{k+1} = \lambda_k - \eta_k \, d(g(\lambda_k, \theta)), \qquad g = -\nabla_\lambda \sum_i L_\beta

    has derivatives with respect to λ_k and θ, which take second derivatives of L. (SVI itself has none: it takes its
    gradient with respect to a leaf.) Same arguments, noise and values as `SVIStep`, for gradients from outside.

    Args:
        step: The step to differentiate.
    """

    def __init__(self, step: SVIStep) -> None:
        self.step = step

    def __call__(self, x: Tensor, beta: Tensor, lr: Tensor, num_steps: Tensor, *state: Tensor) -> Slots:
        """The next state, attached to `state`."""
        k, params, _, *slots = state
        with evaluating(self.step.model), evaluating(self.step.family):
            grad = self._gradient(x, beta, params)
        return self.step.move(params, grad, lr, num_steps, k, tuple(slots))

    def _gradient(self, x: Tensor, beta: Tensor, params: Tensor) -> Tensor:
        """∇ of -L_β at λ (B, P), attached to λ."""
        family = self.step.family
        # The gradient is taken with respect to a view, of which z is made. A path gradient holds fixed the q that z is
        # scored under; here λ stands for it, which is no function of the view, yet has its part in the next derivative.
        path = (params if params.requires_grad else params.detach().requires_grad_()).view_as(params)
        elbo = ELBO(beta, num_particles=self.step.num_particles, path_gradient=self.step.path_gradient)
        if self.step.path_gradient:
            elbo.scorer = lambda x: family.sample(params)
        with pyro.validation_enabled(False):
            loss = elbo.differentiable_loss(self.step.model, lambda x: family.sample(path), x)
        return torch.autograd.grad(loss, path, create_graph=True)[0]

    def pull(self, x: Tensor, beta: Tensor, lr: Tensor, num_steps: Tensor, *rest: Tensor) -> Slots:
        """The step's vector-Jacobian product, a function of tensors to capture.

        `rest` is a state, then the gradients of something with respect to λ and slots after the step; returned are its
        gradients with respect to λ and slots before it, and to each of `weights`.
        """
        num = 3 + self.step.optimizer.num_slots
        (k, params, last, *slots), after = rest[:num], rest[num:]
        with torch.enable_grad():
            before = [part.detach().requires_grad_() for part in (params, *slots)]
            _, moved, _, *kept = self(x, beta, lr, num_steps, k, before[0], last, *before[1:])
            inputs = [*before, *weights(self.step.model, self.step.family)]
            return torch.autograd.grad([moved, *kept], inputs, after, materialize_grads=True)


def weights(*modules: nn.Module) -> Sequence[Tensor]:
    """The parameters that want gradient, each once."""
    return list(dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad))


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
        if self.loop.path_gradient and _depth(self.gradient) > 0 and family.density != "any":
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

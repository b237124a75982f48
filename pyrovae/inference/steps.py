"""The inner step: a gradient by `pyro.infer.SVI`, and how λ moves by it, row by row."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.nn import PyroModule, PyroParam
from pyro.optim import PyroOptim
from torch import Tensor, nn

from ..distributions.numerics import full_precision
from ..families.base import Family
from ..validation import NonNegativeFloat, validated
from .elbo import Objective, Program, Rows, evaluating, sampler

State = TypeVar("State", bound=tuple)
Tensors = tuple[Tensor, ...]


class Settings(NamedTuple):
    """Numbers of a loop as tensors of shape (), so that one graph serves all."""

    beta: Tensor  # β
    lr: Tensor  # η, or (B, 1)
    num_steps: Tensor  # K


class Step(ABC, Generic[State]):
    """One step of a loop as a function of tensors, to run eagerly, captured as a graph, replayed or unrolled.

    A state is a `NamedTuple` of tensors, a row of each for a datapoint but for counters, with λ as `params` (B, P);
    `gradient` (B, P), if it has that, is the one of the loss before the step.

    >>> import pyrovae as pv
    >>> step = pv.SVIRefiner().make_step(pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2))
    >>> isinstance(step, Step), step.init(torch.zeros(8, 4)).gradient.shape
    (True, torch.Size([8, 4]))
    """

    num_looks: int = 0  # calls before the first step, which only look
    learned: nn.Module | None = None  # a network that learns from λ_1 ... λ_K

    @abstractmethod
    def init(self, params: Tensor) -> State:
        """The state of a loop that starts at λ (B, P)."""

    @abstractmethod
    def __call__(self, x: Tensor, settings: Settings, state: State, prior: Rows = None) -> State:
        """The next state; `prior` is λ (B, P) of the q that takes the place of the model's p(z), if one does."""


class SGDState(NamedTuple):
    """Of `SGD`."""

    velocity: Tensor  # (B, P)


class AdamState(NamedTuple):
    """Of `Adam`: running means."""

    mean: Tensor  # (B, P) of the gradient
    square: Tensor  # (B, P) of its square


class SGD:
    """Gradient descent with momentum, as `torch.optim.SGD`, row by row and without hidden state.

    From the gradient, the step, 0, 1, ..., and the state, (B, P) each, to the direction to subtract at a step size of
    one, and the new state.

    >>> optimizer, params = SGD(momentum=0.5), torch.zeros(3, 2)
    >>> _, state = optimizer(torch.ones(3, 2), torch.tensor(0.0), optimizer.init(params))
    >>> optimizer(torch.ones(3, 2), torch.tensor(1.0), state)[0][0]
    tensor([1.5000, 1.5000])
    """

    @validated
    def __init__(self, momentum: NonNegativeFloat) -> None:
        self.momentum = momentum

    def init(self, params: Tensor) -> SGDState:
        return SGDState(torch.zeros_like(params))

    def __call__(self, grad: Tensor, step: Tensor, state: SGDState) -> tuple[Tensor, SGDState]:
        velocity = self.momentum * state.velocity + grad
        return velocity, SGDState(velocity)


class Adam:
    """As `torch.optim.Adam`, called as `SGD`.

    Reference:
        Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015), arXiv:1412.6980

    >>> optimizer, params = Adam(), torch.zeros(3, 2)
    >>> optimizer(0.1 * torch.ones(3, 2), torch.tensor(0.0), optimizer.init(params))[0][0]  # whatever its size
    tensor([1.0000, 1.0000])
    """

    BETAS, EPS = (0.9, 0.999), 1e-8

    def init(self, params: Tensor) -> AdamState:
        return AdamState(torch.zeros_like(params), torch.zeros_like(params))

    def __call__(self, grad: Tensor, step: Tensor, state: AdamState) -> tuple[Tensor, AdamState]:
        b1, b2 = self.BETAS
        mean = torch.lerp(state.mean, grad, 1 - b1)
        square = b2 * state.square + (1 - b2) * grad * grad
        correct1, correct2 = 1 - b1 ** (step + 1), 1 - b2 ** (step + 1)
        # Clamped, for the derivative of a square root is infinite at zero, which an unrolled loop would meet.
        root = (square / correct2).clamp_min(torch.finfo(square.dtype).tiny).sqrt()
        return (mean / correct1) / (root + self.EPS), AdamState(mean, square)


class AdaptiveState(NamedTuple):
    """Of `AdaptiveStep`."""

    last: Tensor  # (B, P) the last step
    log_rate: Tensor  # (B, 1) log factor on the step size
    gain: Tensor  # (B, 1) running mean of a step's worth, in nats
    active: Tensor  # (B, 1) one where a datapoint still steps, else zero


class AdaptiveStep:
    r"""A step size for each datapoint that adapts, and a halt for those that no longer gain.

    A gradient of fresh noise estimates without bias what the *last* step's direction is still worth, to first order
    :math:`s_k = \nabla L_k \cdot (\lambda_k - \lambda_{k-1})` nats. While the two agree the step size grows, by
    :math:`e^{\text{adapt} \cos}`, else it shrinks. A datapoint whose running mean of s falls below `stop_below` stays.

    Args:
        adapt: Largest change of a log step size in a step; 0 holds it.
        stop_below: Nats a step; none lets every datapoint take every step.

    Reference:
        Online Learning Rate Adaptation with Hypergradient Descent (Baydin et al., 2018), arXiv:1703.04782

    >>> adaptive, params = AdaptiveStep(adapt=0.1, stop_below=None), torch.ones(3, 2)
    >>> state = adaptive.init(params)
    >>> for k in range(2):  # two steps the same way: the second is longer
    ...     step, state = adaptive(-0.1 * params, params, torch.tensor(float(k)), state)
    >>> step[0]
    tensor([-0.1105, -0.1105])
    """

    DECAY = 0.95  # of the running mean
    MIN_STEPS = 10  # before a datapoint may stop

    def __init__(self, adapt: float, stop_below: float | None) -> None:
        self.adapt, self.stop_below = adapt, stop_below

    def init(self, params: Tensor) -> AdaptiveState:
        """The state before the first step from λ (B, P)."""
        zero = torch.zeros_like(params[:, :1])
        return AdaptiveState(torch.zeros_like(params), zero, zero.clone(), torch.ones_like(zero))

    def __call__(self, move: Tensor, grad: Tensor, step: Tensor, state: AdaptiveState) -> tuple[Tensor, AdaptiveState]:
        """The move (B, P) to make in place of `move`, in step 0, 1, ..., and the new state."""
        last, log_rate, gain, active = state
        worth = -(grad * last).sum(-1, keepdim=True)  # (B, 1)
        if self.adapt:
            cosine = worth / (grad.norm(dim=-1, keepdim=True) * last.norm(dim=-1, keepdim=True)).clamp_min(1e-12)
            log_rate = log_rate + self.adapt * cosine
            move = log_rate.exp() * move
        if self.stop_below is not None:
            gain = torch.where(step > 0, self.DECAY * gain + (1 - self.DECAY) * worth, gain)
            mean = gain / (1 - self.DECAY ** step.clamp_min(1))
            active = active * ((mean > self.stop_below) | (step < self.MIN_STEPS))
            move = active * move
        return move, AdaptiveState(move, log_rate, gain, active)


class SVIState(NamedTuple):
    """Of `SVIStep`."""

    step: Tensor  # () how many were taken
    params: Tensor  # (B, P) λ
    gradient: Tensor  # (B, P) that of -L_β before the last step
    optimizer: SGDState | AdamState
    adaptive: AdaptiveState | None


class _LocalGuide(PyroModule):
    """A throw-away guide whose one parameter is λ."""

    params: Any  # a `PyroParam`, which reads as a tensor

    def __init__(self, family: Family, params: Tensor) -> None:
        super().__init__()
        self._family = (family,)  # in a tuple: a family's own parameters are not the loop's to move
        self.params = PyroParam(params)

    def forward(self, x: Tensor) -> None:
        self._family[0].sample(self.params)


class _Take(PyroOptim):
    """Lets `SVI.step` move λ by a function of the gradient."""

    def __init__(self, move: Any) -> None:
        self.move = move

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        (leaf,) = params
        with torch.no_grad():
            self.move(leaf.grad)


@dataclass(eq=False, repr=False)
class SVIStep(Step[SVIState]):
    r"""One step of `pyro.infer.SVI` on λ.

    .. math:: \lambda_{k+1} = \lambda_k + \eta_k \, d(\nabla_\lambda \sum_i L_\beta(x_i, \lambda_{k,i}))
    """

    model: nn.Module  # held fixed
    family: Family
    objective: Objective  # L
    optimizer: Any  # d: SGD or Adam
    natural: bool  # `optimizer` is given the family's natural gradient
    adaptive: AdaptiveStep | None  # step sizes by datapoint; none for one that all share
    clip: float | None  # largest norm of a row's gradient, in the metric of the step
    decay: bool  # η falls linearly to zero over the loop

    def init(self, params: Tensor) -> SVIState:
        adaptive = None if self.adaptive is None else self.adaptive.init(params)
        return SVIState(params.new_zeros(()), params, torch.zeros_like(params), self.optimizer.init(params), adaptive)

    def __call__(self, x: Tensor, settings: Settings, state: SVIState, prior: Rows = None) -> SVIState:
        after: list[SVIState] = []

        def loss_and_grads(model: Program, guide: Program, x: Tensor) -> float:
            (leaf.grad,) = torch.autograd.grad(objective.differentiable_loss(model, guide, x), leaf)
            return 0.0  # a number, because SVI.step would call .item() on a tensor

        objective = self.objective.scaled(settings.beta, prior=sampler(self.family, prior))
        guide = _LocalGuide(self.family, state.params)
        leaf = guide.params_unconstrained
        optimizer = _Take(lambda grad: after.append(self.move(grad, settings, state)))
        # Blocked, so that SVI sees λ and nothing else to step.
        model = poutine.block(self.model, hide_types=["param"])
        with torch.enable_grad(), pyro.validation_enabled(False):
            SVI(model, guide, optimizer, loss=objective.loss, loss_and_grads=loss_and_grads).step(x)
        return after[0]

    def attached(self, x: Tensor, settings: Settings, state: SVIState, prior: Rows = None) -> SVIState:
        """The same step, of same noise and values, attached to `state`, `prior` and weights.

        Gradients from outside then take second derivatives of L. (SVI takes its gradient with respect to a leaf.)
        """
        family, params = self.family, state.params
        # The gradient is taken with respect to a view, of which z is made. A path gradient holds fixed the q that z is
        # scored under; here λ stands for it, which is no function of the view, yet has its part in the next derivative.
        path = (params if params.requires_grad else params.detach().requires_grad_()).view_as(params)
        fixed = family.density == "any" and (self.objective.path_gradient or not self.objective.scores_latents)
        scorer = sampler(family, params if fixed else None)
        objective = self.objective.scaled(settings.beta, prior=sampler(family, prior), scorer=scorer)
        with evaluating(self.model), evaluating(family), pyro.validation_enabled(False):
            loss = objective.differentiable_loss(self.model, sampler(family, path), x)
        return self.move(torch.autograd.grad(loss, path, create_graph=True)[0], settings, state)

    def move(self, grad: Tensor, settings: Settings, state: SVIState) -> SVIState:
        """The state after a step from `state` with the objective's gradient there."""
        with full_precision(grad):
            draws = self.objective.num_particles
            slope = self.family.natural_step(state.params, grad, settings.lr, draws) if self.natural else grad
        share: Any = 1.0
        if self.clip is not None:  # (B, 1), so that a row's norm in the metric that made `slope` is at most `clip`
            norm = (grad * slope).sum(-1, keepdim=True).clamp_min(0).sqrt()
            share = self.clip / norm.clamp_min(self.clip)
        direction, optimizer = self.optimizer(share * slope, state.step, state.optimizer)
        rate = settings.lr * (1 - state.step / settings.num_steps) if self.decay else settings.lr
        move, adaptive = -rate * direction, state.adaptive
        if self.adaptive is not None and adaptive is not None:
            move, adaptive = self.adaptive(move, share * grad, state.step, adaptive)
        return SVIState(state.step + 1, state.params + move, grad, optimizer, adaptive)

    def pulled(self, x: Tensor, settings: Settings, state: SVIState, prior: Rows, after: Tensors) -> Tensors:
        """The step's vector-Jacobian product, to capture.

        `after` are gradients with respect to `moving` of the state after the step; returned are those with respect to
        `moving` of the one before, `prior` if there is one, and each of `weights`.
        """
        with torch.enable_grad():
            before = [part.detach().requires_grad_() for part in moving(state)]
            prior = None if prior is None else prior.detach().requires_grad_()
            moved = moving(self.attached(x, settings, with_moving(state, before), prior))
            inputs = [*before, *([] if prior is None else [prior]), *weights(self.model, self.family)]
            return torch.autograd.grad(moved, inputs, after, materialize_grads=True, allow_unused=True)


def moving(state: SVIState) -> Tensors:
    """What of a state the next one depends on smoothly; λ is the first."""
    return state.params, *state.optimizer, *(state.adaptive or ())


def with_moving(state: SVIState, parts: Sequence[Tensor]) -> SVIState:
    """`state` with other values for what `moving` gives."""
    num = 1 + len(state.optimizer)
    adaptive = None if state.adaptive is None else AdaptiveState(*parts[num:])
    make: Any = type(state.optimizer)
    return state._replace(params=parts[0], optimizer=make(*parts[1:num]), adaptive=adaptive)


def weights(*modules: nn.Module) -> list[Tensor]:
    """The parameters that want gradient, each once."""
    return list(dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad))

"""The inner step: its gradient by `pyro.infer.SVI`, optimizers of λ row by row, step sizes that adapt."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.nn import PyroModule, PyroParam
from pyro.optim import PyroOptim
from torch import Tensor, nn

from ..distributions import full_precision
from ..families import Family
from .elbo import ELBO

Slots = tuple[Tensor, ...]


class RowOptimizer(ABC):
    """Turns the gradient of each row of λ into a direction; what it remembers is a tuple of tensors of λ's shape.

    A function of tensors without hidden state, so that a step with it can be captured, replayed or unrolled.
    """

    num_slots: int

    @abstractmethod
    def __call__(self, grad: Tensor, k: Tensor, slots: Slots) -> tuple[Tensor, Slots]:
        """The direction (B, P) to subtract, a step size of one, at step k = 0, 1, ..., and the new slots."""


class SGD(RowOptimizer):
    """Gradient descent with momentum, as `torch.optim.SGD`."""

    num_slots = 1

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum

    def __call__(self, grad: Tensor, k: Tensor, slots: Slots) -> tuple[Tensor, Slots]:
        velocity = self.momentum * slots[0] + grad
        return velocity, (velocity,)


class Adam(RowOptimizer):
    """As `torch.optim.Adam`.

    Reference:
        Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015), arXiv:1412.6980
    """

    num_slots = 2

    def __init__(self, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.betas = betas
        self.eps = eps

    def __call__(self, grad: Tensor, k: Tensor, slots: Slots) -> tuple[Tensor, Slots]:
        b1, b2 = self.betas
        mean = torch.lerp(slots[0], grad, 1 - b1)
        square = b2 * slots[1] + (1 - b2) * grad * grad
        correct1, correct2 = 1 - b1 ** (k + 1), 1 - b2 ** (k + 1)
        # Clamped, for the derivative of a square root is infinite at zero, which an unrolled loop would meet.
        root = (square / correct2).clamp_min(torch.finfo(square.dtype).tiny).sqrt()
        return (mean / correct1) / (root + self.eps), (mean, square)


DECAY = 0.95  # of the running mean of a datapoint's gain
MIN_STEPS = 10  # before a datapoint may stop


class Pace:
    r"""A step size for each datapoint that adapts, and a halt for those that no longer gain.

    A step's gradient comes from fresh noise, so its product with the *last* step estimates, without bias and at no
    cost, what the last direction is still worth: :math:`s_k = \nabla L_k \cdot (\lambda_k - \lambda_{k-1})` nats to
    first order. While the two agree the step size grows, by :math:`e^{\text{adapt} \cos}`, and shrinks where they do
    not. A datapoint whose running mean of s falls below `stop_below` stays where it is.

    Args:
        adapt: Largest change of a log step size in a step; 0 holds it.
        stop_below: Nats a step; none lets every datapoint take every step.

    References:
        Online Learning Rate Adaptation with Hypergradient Descent (Baydin et al., 2018), arXiv:1703.04782
    """

    def __init__(self, adapt: float, stop_below: float | None) -> None:
        self.adapt = adapt
        self.stop_below = stop_below

    @property
    def fixed(self) -> bool:
        """Whether there is nothing to adapt and no one to stop."""
        return self.adapt == 0 and self.stop_below is None

    def init(self, params: Tensor) -> Slots:
        """The last move (B, P), log step size (B, 1), gain (B, 1) and whether at work (B, 1), for λ (B, P)."""
        if self.fixed:
            return ()
        zero = params.new_zeros(len(params), 1)
        return torch.zeros_like(params), zero, zero.clone(), torch.ones_like(zero)

    def __call__(self, move: Tensor, grad: Tensor, k: Tensor, slots: Slots) -> tuple[Tensor, Slots]:
        """The move (B, P) to take in place of `move`."""
        if self.fixed:
            return move, slots
        last, log_rate, gain, active = slots
        worth = -(grad * last).sum(-1, keepdim=True)  # (B, 1)
        if self.adapt:
            cosine = worth / (grad.norm(dim=-1, keepdim=True) * last.norm(dim=-1, keepdim=True)).clamp_min(1e-12)
            log_rate = log_rate + self.adapt * cosine
            move = log_rate.exp() * move
        if self.stop_below is not None:
            gain = torch.where(k > 0, DECAY * gain + (1 - DECAY) * worth, gain)
            mean = gain / (1 - DECAY ** k.clamp_min(1))
            active = active * ((mean > self.stop_below) | (k < MIN_STEPS))
            move = active * move
        return move, (move, log_rate, gain, active)

    def active(self, slots: Slots) -> Tensor:
        """Which datapoints are still at work, (B,), by the last of `slots`."""
        return slots[-1][:, 0] > 0


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

    def __init__(self, move: Callable[[Tensor, Tensor], None]) -> None:
        self.move = move

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        (leaf,) = params
        with torch.no_grad():
            self.move(leaf.detach(), leaf.grad)


class SVIStep:
    r"""One step of `pyro.infer.SVI` on λ, as a function of tensors.

    .. math:: \lambda_{k+1} = \lambda_k + \eta_k \, d(\nabla_\lambda \sum_i L_\beta(x_i, \lambda_{k,i}))

    What it reads and writes are its arguments and results, so it runs eagerly, is captured as a graph (`Capture`), and
    its parts `gradient` and `move` can be unrolled.

    Args:
        model: Pyro model, held fixed.
        family: Turns λ into q.
        optimizer: d, with momentum or moments.
        natural: Give `optimizer` the family's natural gradient.
        pace: Step sizes by datapoint.
        num_particles: Draws of z a datapoint.
        path_gradient: As in `ELBO`.
        clip: Largest norm of a row's gradient, in the metric of the step.
        decay: Lower η linearly to zero over the loop.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        *,
        optimizer: RowOptimizer,
        natural: bool,
        pace: Pace,
        num_particles: int,
        path_gradient: bool,
        clip: float | None,
        decay: bool,
    ) -> None:
        self.model = model
        self.family = family
        self.optimizer = optimizer
        self.natural = natural
        self.pace = pace
        self.num_particles = num_particles
        self.path_gradient = path_gradient
        self.clip = clip
        self.decay = decay

    def init(self, params: Tensor) -> Slots:
        """The state of a loop that starts at λ (B, P): k, λ, the gradient before the last step, and slots."""
        slots = [torch.zeros_like(params) for _ in range(self.optimizer.num_slots)]
        return params.new_zeros(()), params, torch.zeros_like(params), *slots, *self.pace.init(params)

    def __call__(self, x: Tensor, beta: Tensor, lr: Tensor, num_steps: Tensor, *state: Tensor) -> Slots:
        """The next state; β, η and K are tensors of shape () so that one graph serves all."""
        k, params, _, *slots = state
        after: list[Slots] = []

        def loss_and_grads(model: Callable, guide: Callable, x: Tensor) -> float:
            (leaf.grad,) = torch.autograd.grad(elbo.differentiable_loss(model, guide, x), leaf)
            return 0.0  # a number, because SVI.step would call .item() on a tensor

        def move(params: Tensor, grad: Tensor) -> None:
            after.append(self.move(params, grad, lr, num_steps, k, tuple(slots)))

        elbo = ELBO(beta, num_particles=self.num_particles, path_gradient=self.path_gradient)
        guide = _LocalGuide(self.family, params)
        leaf = guide.params_unconstrained
        # Blocked, so that SVI sees λ and nothing else to step.
        model = poutine.block(self.model, hide_types=["param"])
        with pyro.validation_enabled(False):
            SVI(model, guide, _Take(move), loss=elbo.loss, loss_and_grads=loss_and_grads).step(x)
        return after[0]

    def move(self, params: Tensor, grad: Tensor, lr: Tensor, num_steps: Tensor, k: Tensor, slots: Slots) -> Slots:
        """The state after a step from λ with the objective's gradient there."""
        with full_precision(params):
            slope = self.family.natural_gradient(params, grad) if self.natural else grad
        share = 1.0 if self.clip is None else _share_of_rows(grad, slope, self.clip)
        num = self.optimizer.num_slots
        direction, kept = self.optimizer(share * slope, k, slots[:num])
        rate = lr * (1 - k / num_steps) if self.decay else lr
        step, pace = self.pace(-rate * direction, share * grad, k, slots[num:])
        return k + 1, params + step, grad, *kept, *pace


def _share_of_rows(grad: Tensor, slope: Tensor, clip: float) -> Tensor:
    """What to multiply each row by, (B, 1), so that its norm, in the metric that made `slope`, is at most `clip`."""
    norm = (grad * slope).sum(-1, keepdim=True).clamp_min(0).sqrt()
    return clip / norm.clamp_min(clip)

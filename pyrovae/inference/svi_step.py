"""The one definition of an inner step."""

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
from .pace import Pace
from .row_optimizers import RowOptimizer, Slots


class _LocalGuide(PyroModule):
    """A throw-away guide whose one parameter is λ."""

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

"""Optimizers of λ, row by row, as functions of tensors."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

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

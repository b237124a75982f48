"""Maps that make x easier to model: its mean away, its scale one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from ..errors import DataError

Chunks = Callable[[], Iterator[Tensor]]


class Normalization(nn.Module, ABC):
    """A map from x (B, *x_shape) to x of the same shape, fitted to training data."""

    @abstractmethod
    def fit(self, chunks: Chunks) -> None:
        """Learns from x, given in chunks (B, *x_shape) float32, the same at each call of `chunks`.

        Raises:
            DataError: Data that it is not for.
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Centering(Normalization):
    """x minus the mean of each entry."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def fit(self, chunks: Chunks) -> None:
        self.mean = entry_means(chunks).float()

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean


class Standardization(Normalization):
    """x minus the mean of each entry, over a standard deviation.

    Args:
        each_entry: Over each entry's own, for vectors whose entries have units of their own; an entry that never varies
            is only centred. By default over one, the root of the mean variance: contrasts within x stay, and pixels
            that hardly ever vary are not blown up.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, *, each_entry: bool = False) -> None:
        super().__init__()
        self.each_entry = each_entry
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, chunks: Chunks) -> None:
        mean = entry_means(chunks)
        total, count = torch.zeros_like(mean), 0
        for chunk in chunks():
            total += (chunk.double() - mean).square().sum(0)
            count += len(chunk)
        variance = total / count if self.each_entry else (total / count).mean()
        self.mean, self.scale = mean.float(), torch.where(variance > 0, variance, 1.0).sqrt().float()

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


class ContrastNormalization(Normalization):
    r"""Each datapoint by itself: minus its mean, over its standard deviation; nothing is learned.

    .. math:: y = \frac{x - \bar x}{\sqrt{\mathrm{var}(x) + \epsilon}}

    Args:
        epsilon: ε, in units of x squared: contrasts far smaller than its root stay small; by default that is 3 of 255
            grey values.

    Raises:
        DataError: ε below zero.

    Reference:
        An analysis of single-layer networks in unsupervised feature learning (Coates, Ng & Lee, 2011), AISTATS
    """

    def __init__(self, *, epsilon: NonNegativeFloat = 10 / 255**2) -> None:
        super().__init__()
        if not epsilon >= 0:
            raise DataError(f"epsilon must be >= 0, got {epsilon}")
        self.epsilon = epsilon

    def fit(self, chunks: Chunks) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        variance = centred.square().mean(1, keepdim=True) + self.epsilon
        return (centred / torch.where(variance > 0, variance, 1.0).sqrt()).view_as(x)


def entry_means(chunks: Chunks) -> Tensor:
    """Of each entry, float64."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for chunk in chunks():
        total = total + chunk.double().sum(0)
        count += len(chunk)
    return total / count

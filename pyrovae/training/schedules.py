"""How a number changes over training."""

from abc import ABC, abstractmethod
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt


class Warmup(ABC):
    """A factor on β as a function of training time.

    Attributes:
        end: Epoch from which on the factor is 1.
    """

    end: float

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """The factor, in [0, 1], after `epoch` epochs, fractions included."""


class LinearWarmup(Warmup):
    """From 0 to 1 over the first `epochs` epochs.

    Reference:
        Generating Sentences from a Continuous Space (Bowman et al., 2016), arXiv:1511.06349
    """

    def __init__(self, *, epochs: PositiveFloat = 10.0) -> None:
        if not epochs > 0:
            raise ValueError(f"epochs must be > 0, got {epochs}; leave the warm-up out for none")
        self.end = epochs

    def __call__(self, epoch: float) -> float:
        return min(1.0, epoch / self.end)


class CyclicalWarmup(Warmup):
    """`cycles` times from 0 to 1, each within the first `ratio` of `epochs` epochs; then 1 for good.

    Reference:
        Cyclical Annealing Schedule (Fu et al., 2019), arXiv:1903.10145
    """

    def __init__(
        self,
        *,
        epochs: PositiveFloat = 10.0,
        cycles: PositiveInt = 4,
        ratio: Annotated[float, Field(gt=0, le=1)] = 0.5,
    ) -> None:
        if not epochs > 0 or cycles < 1 or not 0 < ratio <= 1:
            raise ValueError(f"need epochs > 0, cycles >= 1, 0 < ratio <= 1, got {epochs}, {cycles}, {ratio}")
        self.epochs, self.cycles, self.ratio = epochs, cycles, ratio
        self.end = epochs * (cycles - 1 + ratio)

    def __call__(self, epoch: float) -> float:
        if epoch >= self.end:
            return 1.0
        return min(1.0, (epoch % self.epochs) / (self.epochs * self.ratio))

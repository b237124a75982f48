"""Numbers that change over training: β, and any in a model, a guide, a family or an objective."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from ..inference import Objective
from ..validation import NonNegativeFloat, PositiveFloat, PositiveInt, Share, validated


class Schedule(ABC):
    """A factor as a function of training time, in epochs; from epoch `until` on it stays as it is.

    >>> class Halved(Schedule):
    ...     until = 3.0
    ...     def __call__(self, epoch):
    ...         return 0.5 if epoch < self.until else 1.0
    """

    until: float

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """The factor after `epoch` epochs, fractions included."""


class LinearWarmup(Schedule):
    """From `start` to `end` over the first `epochs` epochs.

    Reference:
        Generating Sentences from a Continuous Space (Bowman et al., 2016), arXiv:1511.06349

    >>> [LinearWarmup(epochs=4)(epoch) for epoch in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """

    @validated
    def __init__(
        self, *, start: NonNegativeFloat = 0.0, end: NonNegativeFloat = 1.0, epochs: PositiveFloat = 10.0
    ) -> None:
        self.start, self.end, self.until = start, end, epochs

    def __call__(self, epoch: float) -> float:
        return self.start + (self.end - self.start) * min(1.0, epoch / self.until)


class CyclicalWarmup(Schedule):
    """`cycles` times from 0 to 1, each within the first `ratio` of `epochs` epochs; then 1 for good.

    Reference:
        Cyclical Annealing Schedule (Fu et al., 2019), arXiv:1903.10145

    >>> [CyclicalWarmup(epochs=4, cycles=2)(epoch) for epoch in (0, 1, 2, 4, 9)]
    [0.0, 0.5, 1.0, 0.0, 1.0]
    """

    @validated
    def __init__(self, *, epochs: PositiveFloat = 10.0, cycles: PositiveInt = 4, ratio: Share = 0.5) -> None:
        self.epochs, self.cycles, self.ratio = epochs, cycles, ratio
        self.until = epochs * (cycles - 1 + ratio)

    def __call__(self, epoch: float) -> float:
        return 1.0 if epoch >= self.until else min(1.0, (epoch % self.epochs) / (self.epochs * self.ratio))


class Scheduled:
    """A number in a part, and the schedule that it follows: the factor times the value that the part was built with.

    Written in place, so that compiled graphs see it. `place` is a path from one of `roots` on, `family.temperature`, to
    a 0-dim buffer of a module, or to a number of an objective, which becomes a tensor.

    >>> part = nn.Module()
    >>> part.register_buffer("temperature", torch.tensor(2.0))
    >>> Scheduled("family.temperature", LinearWarmup(epochs=4), {"family": part}).follow(1.0), part.temperature
    (0.5, tensor(0.5000))
    """

    def __init__(self, place: str, schedule: Schedule, roots: Mapping[str, Any]) -> None:
        path, _, name = place.rpartition(".")
        first, *rest = path.split(".")
        owner = reduce(lambda part, step: getattr(part, step, None), rest, roots.get(first))
        self.place, self.schedule, self.owner, self.name = place, schedule, owner, name
        value: Any = getattr(owner, name, None)
        if isinstance(owner, Objective) and type(value) in (int, float):
            value = torch.tensor(float(value))
            setattr(owner, name, value)
        movable = isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point()
        if not movable or isinstance(value, nn.Parameter):
            raise ValueError(
                f"schedules: {place!r} can follow no schedule; name a 0-dim buffer, or a number of the objective, from "
                f"{', '.join(roots)} on"
            )
        self.initial = float(value)

    def follow(self, epoch: float) -> float:
        """Moves the number to where it is after `epoch` epochs, and returns that."""
        value = self.initial * self.schedule(epoch)
        getattr(self.owner, self.name).fill_(value)
        return value

    def to(self, device: torch.device) -> None:
        """Moves an objective's tensor to `device`; a module's go with it."""
        setattr(self.owner, self.name, getattr(self.owner, self.name).to(device))

"""Which datapoints train, validate and test."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .errors import DataError


def held_out(name: str, num: int, seed: int, **holdouts: int) -> tuple[Tensor, ...]:
    """Shuffled numbers: of what is left to train on, then of each hold-out of so many datapoints, 1 at least."""
    for key, value in holdouts.items():
        if value < 1:
            raise DataError(f"{name}: {key} must be >= 1, got {value}")
    _check_rest(name, num, holdouts, holdouts)
    order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
    return order.split([num - sum(holdouts.values()), *holdouts.values()])


def stratified(name: str, labels: Sequence[int] | Tensor, seed: int, **fractions: float) -> tuple[Tensor, ...]:
    """Shuffled numbers: of what is left to train on, then of each hold-out of a fraction, every class in proportion.

    Hold-outs have the size that their fraction of all says, rounded, and at least one; of each class they have its
    share to within one datapoint. `labels` are class numbers (N,), `fractions` in (0, 1) by name of the setting.
    """
    for key, value in fractions.items():
        if not 0 < value < 1:
            raise DataError(f"{name}: {key} must be in (0, 1), got {value}")
    labels = torch.as_tensor(labels)
    sizes = {key: max(1, round(len(labels) * value)) for key, value in fractions.items()}
    _check_rest(name, len(labels), sizes, fractions)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # class by class, shuffled within
    # Every class's members at even places of the unit interval: any stretch of it holds classes in proportion.
    counts = labels.bincount()
    of_class = counts, counts.cumsum(0) - counts, torch.rand(len(counts), generator=generator)
    size, begin, offset = (of[labels[order]] for of in of_class)  # (N,) each
    place = (torch.arange(len(order)) - begin + offset) / size
    order = order[place.argsort(stable=True)]
    parts = order.split([*sizes.values(), len(labels) - sum(sizes.values())])
    return tuple(part[torch.randperm(len(part), generator=generator)] for part in (parts[-1], *parts[:-1]))


def _check_rest(name: str, num: int, sizes: Mapping[str, int], given: Mapping[str, float]) -> None:
    if sum(sizes.values()) >= num:
        text = " + ".join(f"{key} {value:g}" for key, value in given.items())
        raise DataError(f"{name}: {text} leaves nothing of {num} datapoints to train on; lower them")

"""Raw datapoints to floats, entry by entry."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def as_floats(raw: Tensor) -> Tensor:
    """float32; pixels of 8 bits go to [0, 1]."""
    return raw.float().div_(255) if raw.dtype == torch.uint8 else raw.float()


@dataclass(frozen=True)
class Scaled:
    """x = raw / scale, float32, whatever the type."""

    scale: float = 1.0

    def __call__(self, raw: Tensor) -> Tensor:
        return raw.float() if self.scale == 1 else raw.float().div_(self.scale)


@dataclass(frozen=True, repr=False)
class Tabulated:
    """x = table[raw], for pixels of 8 bits.

    Args:
        table: (256,), float32.
    """

    table: Tensor

    def __call__(self, raw: Tensor) -> Tensor:
        return self.table.to(raw.device)[raw.int()]

    def __repr__(self) -> str:
        return f"Tabulated({self.table[0]:.3g} to {self.table[-1]:.3g})"


def is_entrywise(preprocess: Any) -> bool:
    """Whether it is one of these, so that what it makes of an entry depends on nothing else."""
    return preprocess is as_floats or isinstance(preprocess, Scaled | Tabulated)

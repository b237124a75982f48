"""Raw datapoints to floats, entry by entry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def as_floats(raw: Tensor) -> Tensor:
    """float32; pixels of 8 bits go to [0, 1]."""
    return raw.float().div_(255) if raw.dtype == torch.uint8 else raw.float()


@dataclass(frozen=True)
class Scaled:
    """x = raw / scale, float32, whatever the type.

    >>> Scaled(2.0)(torch.tensor([3, 4]))
    tensor([1.5000, 2.0000])
    """

    scale: float = 1.0

    def __call__(self, raw: Tensor) -> Tensor:
        return raw.float() if self.scale == 1 else raw.float().div_(self.scale)


@dataclass(frozen=True, repr=False)
class Tabulated:
    """x = table[raw], for pixels of 8 bits; `table` is (256,), float32."""

    table: Tensor

    def __call__(self, raw: Tensor) -> Tensor:
        return self.table.to(raw.device)[raw.int()]

    def __repr__(self) -> str:
        return f"Tabulated({self.table[0]:.3g} to {self.table[-1]:.3g})"


def is_entrywise(preprocess: Any) -> bool:
    """Whether it is one of these, so that what it makes of an entry depends on nothing else."""
    return preprocess is as_floats or isinstance(preprocess, Scaled | Tabulated)


def in_full(preprocess: Callable[[Tensor], Tensor], raw: Tensor) -> Tensor:
    """What `preprocess` makes of `raw`, in float64 where float32 would cut digits off, if it is one of these."""
    if raw.dtype not in (torch.float64, torch.int32, torch.int64) or not is_entrywise(preprocess):
        return preprocess(raw)
    return raw.double() / (preprocess.scale if isinstance(preprocess, Scaled) else 1)

"""What a split is made of, wherever it lies."""

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Rows(ABC):
    """Raw datapoints by number: read, decoded or drawn when they are asked for.

    Attributes:
        shape: (N, *x_shape).
        dtype: Of what `read` gives: uint8 for pixels.
        device: Of what `read` gives.
        anew: Whether each epoch reads other datapoints.
        at_hand: Whether to look at all of them costs no more than reading a file.
        place: Where they are, for people.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device = torch.device("cpu")
    anew = False
    at_hand: bool = False
    place: str = "made when read"

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        """The datapoints (B, *x_shape) numbered `numbers` (B,), a function of these and, where drawn, of the epoch."""

    def origin(self, numbers: Tensor) -> Tensor:
        """The numbers, in what was read, of the datapoints numbered `numbers` (B,)."""
        return numbers

    def subset(self, numbers: Tensor) -> "Rows":
        """The datapoints numbered `numbers` (M,), in that order."""
        return Subset(self, numbers)


def chunks(numbers: Tensor, rows: Rows, most: int = 2**17) -> tuple[Tensor, ...]:
    """Numbers in parts whose datapoints have at most so many entries together: a megabyte or so in double precision."""
    return numbers.split(max(1, most // math.prod(rows.shape[1:])))


class Held(Rows):
    """A tensor in memory, or on the GPU."""

    at_hand = True

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.shape, self.dtype, self.device = tuple(values.shape), values.dtype, values.device
        self.place = "memory" if self.device.type == "cpu" else str(self.device)

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        return self.values.index_select(0, numbers)  # several times as fast as values[numbers]


class Mapped(Rows):
    """An array on disk, of which no more than a batch is in memory.

    Args:
        array: (N, *x_shape), a `numpy.memmap` say, or anything that gives rows for an array of their numbers.
    """

    at_hand = True

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape = tuple(array.shape)
        self.dtype = torch.from_numpy(np.empty(0, array.dtype.newbyteorder("="))).dtype
        self.place = _place(array)

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        rows = np.asarray(self.array[numbers.numpy()])
        return torch.from_numpy(rows.astype(rows.dtype.newbyteorder("="), copy=False))


class Subset(Rows):
    """Some rows of others."""

    def __init__(self, rows: Rows, numbers: Tensor) -> None:
        self.rows = rows
        self.shape, self.dtype = (len(numbers), *rows.shape[1:]), rows.dtype
        self.at_hand, self.anew, self.place = rows.at_hand, rows.anew, rows.place
        self.device, self.numbers = rows.device, numbers.to(rows.device)

    def origin(self, numbers: Tensor) -> Tensor:
        return self.rows.origin(self.numbers[numbers])

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        return self.rows.read(self.numbers[numbers], epoch)

    def subset(self, numbers: Tensor) -> Rows:
        return self.rows.subset(self.numbers[numbers])


def _place(array: Any) -> str:
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap) and array.base is not None:
        array = array.base
    if isinstance(array, np.memmap):
        return f"a memory-mapped file, {array.filename}"
    return "memory" if isinstance(array, np.ndarray) else "a file, read by rows"

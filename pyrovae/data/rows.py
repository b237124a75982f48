"""What a split is made of, wherever it lies."""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor


class Rows(ABC):
    """Raw datapoints by number, read, decoded or drawn when asked for.

    Attributes:
        shape: (N, *x_shape).
        dtype, device: Of what `read` gives; uint8 for pixels.
        anew: Whether each epoch reads other datapoints.
        at_hand: Whether to look at all of them costs no more than reading a file.
        place: Where they are, for people.

    >>> class Ramps(Rows):
    ...     shape, dtype = (1000, 4), torch.float32
    ...     def read(self, numbers, epoch=0):
    ...         return numbers[:, None] * torch.arange(4.0)
    >>> Ramps().subset(torch.tensor([7, 3])).read(torch.tensor([1]))
    tensor([[0., 3., 6., 9.]])
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device = torch.device("cpu")
    at_hand, anew, place = False, False, "made when read"

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        """The datapoints (B, *x_shape) numbered `numbers` (B,), a function of these and, where drawn, of the epoch."""

    def lies_at(self) -> tuple[Path, str] | None:
        """The file whose values these are, and where in it; None if they are made of more."""
        return None

    def subset(self, numbers: Tensor) -> "Rows":
        """The datapoints numbered `numbers` (M,), in that order."""
        return Subset(self, numbers)


def chunks(numbers: Tensor, rows: Rows, most: int = 2**17) -> tuple[Tensor, ...]:
    """Numbers in parts whose datapoints have at most so many entries together: a megabyte or so in double precision."""
    return numbers.split(max(1, most // math.prod(rows.shape[1:])))


def in_order(
    make: Callable[[Any], Any], items: Iterable[Any], num_threads: int, num_ahead: int
) -> Generator[Any, None, None]:
    """What `make` makes of each item, and the item, in their order; threads make up to `num_ahead` of the next ones."""
    pool, ahead = ThreadPoolExecutor(num_threads), deque[Any]()
    try:
        for item in items:
            ahead.append((pool.submit(make, item), item))
            if len(ahead) > num_ahead:
                made, of = ahead.popleft()
                yield made.result(), of
        for made, of in ahead:
            yield made.result(), of
    finally:
        pool.shutdown(cancel_futures=True)


class Held(Rows):
    """A tensor in memory, or on the GPU.

    >>> Held(torch.eye(3)).read(torch.tensor([2]))
    tensor([[0., 0., 1.]])
    """

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
        array: (N, *x_shape), a `numpy.memmap` say, or anything with shape and dtype that gives rows for their numbers.
        images: What indices after the first stand for, if datapoints become images (C, H, W).

    >>> Mapped(np.zeros((5, 8, 8, 3), np.uint8), images="HWC").shape
    (5, 3, 8, 8)
    """

    at_hand, place = True, "a file, read by rows"

    def __init__(self, array: Any, images: Literal["", "HW", "CHW", "HWC"] = "") -> None:
        (n, *shape), self.array, self.images = array.shape, array, images
        self.shape = (n, *{"HW": [1, *shape], "HWC": [*shape[-1:], *shape[:-1]]}.get(images, shape))
        self.dtype = torch.from_numpy(np.empty(0, array.dtype.newbyteorder("="))).dtype
        if isinstance(array, np.ndarray):
            self.place = "memory" if (at := self.lies_at()) is None else f"a memory-mapped file, {at[0]}"

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        rows = np.asarray(self.array[numbers.numpy()])
        raw = torch.from_numpy(rows.astype(rows.dtype.newbyteorder("="), copy=False))
        raw = raw.permute(0, 3, 1, 2).contiguous() if self.images == "HWC" else raw
        return raw.view(-1, *self.shape[1:]) if self.images else raw

    def lies_at(self) -> tuple[Path, str] | None:
        if not isinstance(self.array, np.ndarray):
            path = getattr(self.array, "path", None)
            return None if path is None else (Path(path), str(self.array.name))
        base = self.array
        while isinstance(base.base, np.ndarray):
            base = base.base
        if not isinstance(base, np.memmap):
            return None
        begin = base.offset + self.array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        return Path(str(base.filename)), f"{begin} {self.array.strides} {self.array.dtype.str}"


class Subset(Rows):
    """Some rows of others."""

    def __init__(self, rows: Rows, numbers: Tensor) -> None:
        self.rows, self.lies_at = rows, rows.lies_at  # type: ignore[method-assign]
        self.dtype, self.device, self.at_hand, self.anew = rows.dtype, rows.device, rows.at_hand, rows.anew
        self.shape, self.place, self.numbers = (len(numbers), *rows.shape[1:]), rows.place, numbers.to(rows.device)

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        return self.rows.read(self.numbers[numbers], epoch)

    def subset(self, numbers: Tensor) -> Rows:
        return self.rows.subset(self.numbers[numbers])


class Column:
    """A covariate: the rows numbered `rows` (N,) of an array that stays where it lies, of numbers or text."""

    def __init__(self, array: Any, rows: Tensor) -> None:
        self.array, self.numbers = array.numpy() if isinstance(array, Tensor) else array, rows.numpy()
        self.shape, self.dtype = (len(self.numbers), *self.array.shape[1:]), self.array.dtype

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, which: Any) -> np.ndarray:
        return np.asarray(self.array[self.numbers[which]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

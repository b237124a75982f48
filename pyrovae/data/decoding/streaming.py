"""Rows that are decoded when they are read."""

import sys
from collections.abc import Iterator
from threading import Lock
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..rows import Rows, Subset
from .items import Items

OnBad = Literal["error", "skip"]


class Streamed(Rows):
    """Row i is item i, decoded anew each time; any number of threads may read.

    With `skip` the place of a damaged item is taken by the next good one of the same split, in the order of the items:
    most often one of its class.

    Args:
        items: What is decoded.
        on_bad: Whether a damaged item is an error, or its place is taken.
        members: Numbers of the items that may take a place, rising; by default all.
        known_bad: Numbers of damaged items that were met already, to share.

    Raises:
        DataError: On reading: a damaged item, or nothing but damaged ones.
    """

    place = "files, decoded when read"

    def __init__(
        self,
        items: Items,
        on_bad: OnBad = "error",
        members: np.ndarray | None = None,
        known_bad: "_Bad | None" = None,
    ) -> None:
        self.items, self.on_bad = items, on_bad
        self.shape = (len(items), *items.shape)
        self.dtype = torch.from_numpy(np.empty(0, items.dtype)).dtype
        self.members = np.arange(len(items)) if members is None else members
        self.known_bad = _Bad() if known_bad is None else known_bad

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        values = np.empty((len(numbers), *self.items.shape), self.items.dtype)
        for row, number in enumerate(numbers.tolist()):
            values[row] = self._decode(number)
        return torch.from_numpy(values)

    def subset(self, numbers: Tensor) -> Rows:
        members = np.unique(numbers.numpy())
        return Subset(Streamed(self.items, self.on_bad, members, self.known_bad), numbers)

    def _decode(self, number: int) -> np.ndarray:
        for candidate in self._candidates(number):
            if candidate in self.known_bad:
                continue
            try:
                return self.items.decode(candidate)
            except DataError as error:
                if self.on_bad == "error":
                    raise self.items.refused(error) from error
                self.known_bad.add(candidate, f"{self.items.name}: {error}; another takes its place")
        raise DataError(f"{self.items.name}: none of {len(self.members)} files of a split can be read")

    def _candidates(self, number: int) -> Iterator[int]:
        """The item itself, then those that may take its place."""
        yield number
        if self.on_bad == "skip":
            after = int(np.searchsorted(self.members, number, side="right"))
            yield from map(int, self.members[after:])
            yield from map(int, self.members[:after])


class _Bad:
    """Damaged items that were met, each told of once."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self._lock = Lock()

    def __contains__(self, number: int) -> bool:
        return number in self._numbers

    def add(self, number: int, message: str) -> None:
        with self._lock:
            if number not in self._numbers:
                self._numbers.add(number)
                print(message, file=sys.stderr)

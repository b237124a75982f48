"""Things that are decoded one by one."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError


@dataclass(frozen=True)
class Items:
    """Files, or parts of files, and how each becomes an array.

    Attributes:
        name: Of the data set.
        items: Paths, tuples that hold paths, or anything that `str` tells apart.
        read: From an item to an array of `shape`; raises `DataError` for a damaged one.
        shape: Of a datapoint.
        dtype: Of a datapoint.
    """

    name: str
    items: Sequence[Any]
    read: Callable[[Any], np.ndarray]
    shape: tuple[int, ...]
    dtype: np.dtype

    def __post_init__(self) -> None:
        if not len(self.items):
            raise DataError(f"{self.name}: nothing to decode; name a folder that holds files")

    def __len__(self) -> int:
        return len(self.items)

    def decode(self, number: int) -> np.ndarray:
        """The array `shape` of an item.

        Raises:
            DataError: It is damaged.
        """
        array = self.read(self.items[number])
        if array.shape != self.shape:
            raise DataError(f"{self.items[number]} gives {array.shape} instead of {self.shape}; mend or remove it")
        return array.astype(self.dtype, casting="same_kind", copy=False)

    def refused(self, error: DataError) -> DataError:
        """What is wrong with an item, when that is not to be passed over."""
        return DataError(f"{self.name}: {error}, or set dataset.on_bad: skip")

    def stamps(self) -> Iterator[str]:
        """What tells an item from others, and from itself when it has changed.

        Of a file that is its path below the folder common to all, its size and the time of its last change: a tree that
        is moved keeps its stamps.
        """
        parts = [item if isinstance(item, tuple) else (item,) for item in self.items]
        paths = [[os.fspath(part) for part in of if isinstance(part, Path)] for of in parts]
        folders = {os.path.dirname(path) for of in paths for path in of}
        skip = len(os.path.commonpath(folders)) if folders else 0
        for of, files in zip(parts, paths, strict=True):
            others = [repr(part) for part in of if not isinstance(part, Path)]
            yield " ".join([*(_stamp(path, skip) for path in files), *others])


def _stamp(path: str, skip: int) -> str:
    try:
        about = os.stat(path)
    except OSError:  # it will be damaged when it is read
        return f"{path[skip:]} gone"
    return f"{path[skip:]} {about.st_size} {about.st_mtime_ns}"

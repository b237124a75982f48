"""HDF5 files."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from .files import ArrayFile, Facts, readable

_STRETCH = 4  # a stretch of rows is many times as fast as its rows one by one: so many times as many are worth it
_LARGEST_CACHE = 64 * 2**20  # bytes of decompressed chunks that may be held
_SLOTS = 12_421  # of the chunk cache's hash table: a prime, as HDF5 asks for


class HDF5File(ArrayFile):
    """Data sets by their path in the file; one that lies in one piece is mapped, any other is read by rows."""

    def __init__(self, path: Path) -> None:
        import h5py  # type: ignore[import-untyped] # noqa: PLC0415 - slow to import

        self.path = path
        self.arrays = {}

        def note(name: str, thing: Any) -> None:
            if isinstance(thing, h5py.Dataset) and thing.shape is not None:
                is_text = h5py.check_string_dtype(thing.dtype) is not None
                self.arrays[name] = Facts(thing.shape, np.dtype(str) if is_text else thing.dtype)

        with readable(path), h5py.File(path, "r") as file:
            file.visititems(note)

    def _open(self, name: str) -> Any:
        import h5py  # type: ignore[import-untyped] # noqa: PLC0415 - slow to import

        with h5py.File(self.path, "r") as file:
            dataset = file[name]
            if h5py.check_string_dtype(dataset.dtype) is not None:
                return dataset.asstr()[...]
            if 0 in dataset.shape:
                return dataset[...]
            in_one_piece = dataset.chunks is None and not dataset.external and not dataset.is_virtual
            offset = dataset.id.get_offset() if in_one_piece else None  # None too where nothing was ever written
            if offset is not None:
                return np.memmap(self.path, dataset.dtype, "r", offset, dataset.shape)
        return HDF5Array(self.path, name, self.arrays[name])


class HDF5Array:
    """Rows of a data set in chunks, compressed or not, read when they are asked for; h5py lets one thread in at a time.

    Args:
        path: The file.
        name: Of the data set.
        facts: Of it.
    """

    def __init__(self, path: Path, name: str, facts: Facts) -> None:
        self.path, self.name = path, name
        self.shape, self.dtype = facts
        self._opened: tuple[int, Any] = (-1, None)

    def __getitem__(self, numbers: Any) -> np.ndarray:
        """The rows numbered `numbers` (B,), in that order, repeated ones too; or a slice of them."""
        with readable(self.path):
            if isinstance(numbers, slice) or len(numbers) == 0:
                return self._dataset()[numbers]
            rows, places = np.unique(numbers, return_inverse=True)  # h5py takes increasing numbers only
            first, last = rows[0], rows[-1] + 1
            if last - first <= _STRETCH * len(rows):
                return self._dataset()[first:last][rows - first][places]
            return self._dataset()[rows][places]

    def _dataset(self) -> Any:
        import h5py  # type: ignore[import-untyped] # noqa: PLC0415 - slow to import

        process, dataset = self._opened
        if process != os.getpid():  # HDF5 does not survive a fork
            file = h5py.File(self.path, "r")
            access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
            if (num_bytes := self._row_of_chunks(file[self.name].chunks)) <= _LARGEST_CACHE:
                access.set_chunk_cache(_SLOTS, max(num_bytes, 2**20), 0.75)  # 1 MiB and 0.75 are HDF5's own
            dataset = h5py.Dataset(h5py.h5d.open(file.id, self.name.encode(), access))
            self._opened = (os.getpid(), dataset)
        return dataset

    def _row_of_chunks(self, chunks: tuple[int, ...] | None) -> int:
        """Bytes of the chunks that hold one row: if the cache cannot hold them, each read decompresses anew."""
        if chunks is None:
            return 0
        widths = [math.ceil(whole / part) * part for whole, part in zip(self.shape[1:], chunks[1:], strict=True)]
        return chunks[0] * math.prod(widths) * self.dtype.itemsize

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": (-1, None)}

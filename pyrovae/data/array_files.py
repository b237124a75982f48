"""Files of named arrays, mapped wherever they lie as they are."""

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import DataError

_LOCAL_HEADER = 30  # bytes of a zip member before its name; the lengths of name and extra field are the last four
_STRETCH = 4  # a stretch of rows is many times as fast as its rows one by one: so many times as many are worth it
_LARGEST_CACHE, _LEAST_CACHE, _SLOTS = 64 * 2**20, 2**20, 12_421  # bytes of chunks that are held; HDF5 asks for a prime
_DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, SyntaxError, struct.error, zipfile.BadZipFile, zlib.error),
    *(RuntimeError, NotImplementedError),  # zip files that are encrypted, or packed in a way that Python does not know
)


class Objects(NamedTuple):
    """Stands for an array of Python objects, which is not read."""

    shape: tuple[int, ...]
    dtype: np.dtype


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Damage, which has many names, becomes a `DataError`."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read {path} ({reason}); it is cut short, damaged, or of another format") from error


def open_arrays(path: Path, setting: str) -> dict[str, Any]:
    """The arrays of a file by name: mapped, in memory, or objects that read the rows that they are asked for.

    The one array of a .npy file is named "". A `DataError` names the `setting`, if there is no such file.
    """
    kinds: dict[str, Callable[[Path], dict[str, Any]]]
    kinds = {".npy": lambda path: {"": _array(path, 0)}, ".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5}
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{setting}: {path} {what}; name a file: {', '.join(kinds)}")
    if path.suffix.lower() not in kinds:
        raise DataError(f"{setting}: {path} has the suffix {path.suffix!r}; it must be one of {', '.join(kinds)}")
    with readable(path):
        return kinds[path.suffix.lower()](path)


def _npz(path: Path) -> dict[str, Any]:
    """Members that are stored plainly are mapped within the zip file; compressed ones are read."""
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            name, suffix = os.path.splitext(member.filename)
            if suffix == ".npy":
                with archive.open(member) as packed:  # which refuses what is encrypted
                    shape, _, dtype = _header(packed)
                    if dtype.hasobject:
                        arrays[name] = Objects(shape, dtype)
                    elif member.compress_type == zipfile.ZIP_STORED:
                        file.seek(member.header_offset)
                        lengths = struct.unpack("<HH", file.read(_LOCAL_HEADER)[-4:])
                        arrays[name] = _array(path, member.header_offset + _LOCAL_HEADER + sum(lengths))
                    else:
                        packed.seek(0)
                        arrays[name] = np.lib.format.read_array(packed)
    return arrays


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the first index varies fastest, and dtype of a .npy; `file` is then at the first value."""
    version, formats = np.lib.format.read_magic(file), np.lib.format
    read = {(1, 0): formats.read_array_header_1_0, (2, 0): formats.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"format {version} of .npy")
    return read(file)


def _array(path: Path, offset: int) -> Any:
    """The array whose .npy header begins at byte `offset`, mapped."""
    with path.open("rb") as file:
        file.seek(offset)
        shape, fortran_order, dtype = _header(file)
        if dtype.hasobject:
            return Objects(shape, dtype)
        if 0 in shape:
            return np.empty(shape, dtype)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran_order else "C")


def _hdf5(path: Path) -> dict[str, Any]:
    """Data sets by their path in the file; one that lies in one piece is mapped, any other is read by rows."""
    import h5py  # type: ignore[import-untyped] # noqa: PLC0415 - slow to import

    arrays: dict[str, Any] = {}

    def note(name: str, thing: Any) -> None:
        if not isinstance(thing, h5py.Dataset) or thing.shape is None:
            return
        if h5py.check_string_dtype(thing.dtype) is not None:
            arrays[name] = np.asarray(thing.asstr()[...]).astype(str)
        elif thing.dtype.hasobject:
            arrays[name] = Objects(thing.shape, thing.dtype)
        elif 0 in thing.shape or not thing.shape:
            arrays[name] = thing[...]
        else:
            in_pieces = thing.chunks is not None or thing.external or thing.is_virtual
            at = None if in_pieces else thing.id.get_offset()  # None too where nothing was ever written
            read = HDF5Array(path, thing) if at is None else np.memmap(path, thing.dtype, "r", at, thing.shape)
            arrays[name] = read

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return arrays


class HDF5Array:
    """Rows of an open HDF5 data set in chunks, read when they are asked for; h5py lets one thread in at a time."""

    def __init__(self, path: Path, dataset: Any) -> None:
        self.path, self.name, self.shape, self.dtype = path, dataset.name, dataset.shape, dataset.dtype
        # Bytes of the chunks that hold one row: if the cache cannot hold them, each read decompresses anew.
        chunks = dataset.chunks or self.shape
        widths = [math.ceil(whole / part) * part for whole, part in zip(self.shape[1:], chunks[1:], strict=True)]
        num_bytes = chunks[0] * math.prod(widths) * self.dtype.itemsize
        self._cache = max(num_bytes, _LEAST_CACHE) if num_bytes <= _LARGEST_CACHE else _LEAST_CACHE
        self._opened: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return self.shape[0]

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

        if self._opened[0] != os.getpid():  # HDF5 does not survive a fork
            file = h5py.File(self.path, "r", rdcc_nbytes=self._cache, rdcc_nslots=_SLOTS)
            self._opened = (os.getpid(), file[self.name])
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": (-1, None)}

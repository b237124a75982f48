"""Files of named arrays, mapped wherever they lie as they are."""

import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import DataError

_LOCAL_HEADER = 30  # bytes of a zip member before its name; the lengths of name and extra field are the last four
_ENCRYPTED = 1
_DAMAGE = (
    *(OSError, ValueError, EOFError, KeyError, SyntaxError, struct.error, zipfile.BadZipFile, zlib.error),
    *(RuntimeError, NotImplementedError),  # zip files that are encrypted, or packed in a way that Python does not know
)


class Facts(NamedTuple):
    """What is known of an array before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class ArrayFile(ABC):
    """Arrays by name.

    Attributes:
        path: The file.
        arrays: What it holds; the one array of a .npy file is named "".
    """

    path: Path
    arrays: dict[str, Facts]

    def open(self, name: str) -> Any:
        """The array: mapped, or in memory, or an object that reads the rows that it is asked for.

        Raises:
            DataError: It cannot be read, or holds Python objects.
        """
        if self.arrays[name].dtype.hasobject:
            raise DataError(f"{self.path}: {name or 'it'} holds Python objects; save an array of numbers")
        with readable(self.path):
            return self._open(name)

    @abstractmethod
    def _open(self, name: str) -> Any: ...


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Damage, which has many names, becomes a `DataError`."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read {path} ({reason}); it is cut short, damaged, or of another format") from error


class NpyFile(ArrayFile):
    """One array, mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(path), path.open("rb") as file:
            self.arrays = {"": _header(file)[0]}

    def _open(self, name: str) -> np.ndarray:
        return _mapped(self.path, 0)


class NpzFile(ArrayFile):
    """Several: those that are stored plainly are mapped within the zip file, compressed ones read into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.arrays = {}
        with readable(path), zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as file:
                        self.arrays[member.removesuffix(".npy")] = _header(file)[0]

    def _open(self, name: str) -> np.ndarray:
        with zipfile.ZipFile(self.path) as archive:
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
                with archive.open(member) as file:
                    return np.lib.format.read_array(file, allow_pickle=False)
        with self.path.open("rb") as file:
            file.seek(member.header_offset)
            name_size, extra_size = struct.unpack("<HH", file.read(_LOCAL_HEADER)[-4:])
        return _mapped(self.path, member.header_offset + _LOCAL_HEADER + name_size + extra_size)


def _header(file: Any) -> tuple[Facts, bool]:
    """What a .npy header says, and whether the first index varies fastest; `file` is then at the first value."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format {version} of .npy")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    return Facts(shape, dtype), fortran_order


def _mapped(path: Path, offset: int) -> np.ndarray:
    """The array whose .npy header begins at byte `offset`."""
    file: BinaryIO
    with path.open("rb") as file:
        file.seek(offset)
        facts, fortran_order = _header(file)
        if 0 in facts.shape:
            return np.empty(facts.shape, facts.dtype)
        return np.memmap(path, facts.dtype, "r", file.tell(), facts.shape, "F" if fortran_order else "C")


def array_file(path: Path, key: str) -> ArrayFile:
    """Opens a file by its suffix: .npy, .npz, .h5 or .hdf5.

    Args:
        path: The file.
        key: The setting that named it, for errors.

    Raises:
        DataError: No such file, an unknown suffix, or damage.
    """
    from .hdf5 import HDF5File  # noqa: PLC0415 - it is an `ArrayFile` itself

    kinds: dict[str, Any] = {".npy": NpyFile, ".npz": NpzFile, ".h5": HDF5File, ".hdf5": HDF5File}
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{key}: {path} {what}; name a file: {', '.join(kinds)}")
    if path.suffix.lower() not in kinds:
        raise DataError(f"{key}: {path} has the suffix {path.suffix!r}; it must be one of {', '.join(kinds)}")
    return kinds[path.suffix.lower()](path)

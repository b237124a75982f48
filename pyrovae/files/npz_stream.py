"""Arrays larger than memory, in one .npz file."""

import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .replacing import explained, replacing

_BLOCK = 1 << 20  # bytes copied at a time
_DATE = (1980, 1, 1, 0, 0, 0)  # as numpy's own: equal arrays make equal files


class NpzStream:
    """Writes arrays that come piece by piece to a .npz file, with memory for one piece.

    As a context: inside, each array grows as a file of its own in a folder beside `path`; at the end they are put into
    one, which takes the place of `path`. Leaving by an error leaves nothing behind.

    Files are written in order, not mapped into memory: a full disk is an error then, and no crash.

    Args:
        path: The file; `numpy.load` reads it.
        arrays: Shape and data type of each array, by name.

    Raises:
        OSError: It cannot be written.
        ValueError: At the end, if an array has not got all of its rows.
    """

    def __init__(self, path: Path, arrays: Mapping[str, tuple[tuple[int, ...], DTypeLike]]) -> None:
        self.path = path
        self.arrays = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in arrays.items()}
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> "NpzStream":
        with ExitStack() as stack:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix=f".{self.path.name}.", dir=self.path.parent)
            )
            for name, (shape, dtype) in self.arrays.items():
                file = stack.enter_context((Path(folder) / f"{name}.npy").open("w+b"))
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                self._files[name] = file
            self._begin = {name: file.tell() for name, file in self._files.items()}
            self._stack = stack.pop_all()
        return self

    def append(self, **pieces: np.ndarray) -> None:
        """Adds rows to arrays, by name; to an array of shape (), its value."""
        for name, piece in pieces.items():
            shape, dtype = self.arrays[name]
            if piece.shape[1:] != shape[1:]:
                raise ValueError(f"{name}: rows must be {shape[1:]}, got {piece.shape[1:]}")
            with explained(self.path):
                self._files[name].write(np.ascontiguousarray(piece, dtype).data if piece.ndim else piece.tobytes())

    def __exit__(self, error_type: type[BaseException] | None, *_: Any) -> None:
        with self._stack:
            if error_type is None:
                self._check()
                with replacing(self.path) as part:
                    self._pack(part)

    def _check(self) -> None:
        for name, (shape, dtype) in self.arrays.items():
            size, expected = self._files[name].tell() - self._begin[name], int(np.prod(shape)) * dtype.itemsize
            if size != expected:
                raise ValueError(f"{name}: {expected} bytes were to come, for shape {shape}, and {size} came")

    def _pack(self, part: Path) -> None:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for name, file in self._files.items():
                file.seek(0)
                with archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True) as entry:
                    shutil.copyfileobj(file, entry, _BLOCK)
                file.seek(0)
                file.truncate()  # what is packed is not needed twice on disk

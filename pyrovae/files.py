"""Files that are whole or not there."""

import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file's path beside `path`: it takes the place of `path` when all went well, and is gone otherwise."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # beside: a move between disks is a copy
    try:
        with _explained(path):
            yield part
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(folder: Path, remedy: str) -> None:
    """Makes `folder` if need be, and tries it out; an OSError ends with `remedy`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {folder} ({error.strerror}); {remedy}") from error


class NpzStream:
    """Writes arrays that come piece by piece to a .npz file, with memory for one piece.

    As a context: inside, each array, whose shape and data type are given by name, grows as a file of its own beside
    `path`; at the end they become one, which takes the place of `path`. An error, of an array without all of its rows
    too, leaves nothing behind. Nothing is mapped into memory: a full disk is an OSError, and no crash.
    """

    def __init__(self, path: Path, arrays: Mapping[str, tuple[tuple[int, ...], DTypeLike]]) -> None:
        self.path, self.arrays = path, {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in arrays.items()}
        self._stack, self._files, self._sizes = ExitStack(), dict[str, Any](), dict.fromkeys(arrays, 0)

    def __enter__(self) -> "NpzStream":
        with self._stack as stack:  # nothing stays where a file cannot be opened
            beside = tempfile.TemporaryDirectory(prefix=f".{self.path.name}.", dir=self.path.parent)
            folder = Path(stack.enter_context(beside))
            for name, (shape, dtype) in self.arrays.items():
                self._files[name] = file = stack.enter_context((folder / f"{name}.npy").open("wb"))
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            self._stack = stack.pop_all()
        return self

    def append(self, **pieces: np.ndarray) -> None:
        """Adds rows to arrays, by name; to an array of shape (), its value."""
        for name, piece in pieces.items():
            shape, dtype = self.arrays[name]
            if piece.shape[1:] != shape[1:]:
                raise ValueError(f"{name}: rows must be {shape[1:]}, got {piece.shape[1:]}")
            with _explained(self.path):
                self._sizes[name] += self._files[name].write(
                    np.ascontiguousarray(piece, dtype).reshape(-1).view(np.uint8)
                )

    def __exit__(self, error_type: type[BaseException] | None, *_: Any) -> None:
        with self._stack:
            if error_type is not None:
                return
            for name, (shape, dtype) in self.arrays.items():
                if (size := self._sizes[name]) != (expected := int(np.prod(shape)) * dtype.itemsize):
                    raise ValueError(f"{name}: {expected} bytes were to come, for shape {shape}, and {size} came")
            # Times before 1980 become 1980: equal arrays make equal files.
            with replacing(self.path) as part, zipfile.ZipFile(part, "w", strict_timestamps=False) as archive:
                for name, file in self._files.items():
                    file.close()
                    os.utime(file.name, (0, 0))
                    archive.write(file.name, f"{name}.npy")
                    os.unlink(file.name)  # what is packed is not needed twice on disk


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of input and output, inside, name `path` and say what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror or error}); make room, or write elsewhere") from error

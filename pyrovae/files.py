"""Files that are whole or not there."""

import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
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


@contextmanager
def npz_stream(path: Path, arrays: Mapping[str, tuple[tuple[int, ...], DTypeLike]]) -> Iterator[Callable[..., None]]:
    """Writes arrays, of these shapes and types, that come piece by piece to a .npz file, with memory for one piece.

    Gives a function that adds rows to arrays, by name; to an array of shape (), its value. Arrays grow as files beside
    `path`, which become one at the end. An error, of an array without all of its rows too, leaves nothing behind.
    Nothing is mapped into memory: a full disk is an OSError, and no crash.
    """
    types = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in arrays.items()}
    files, sizes = dict[str, Any](), dict.fromkeys(arrays, 0)

    def append(**pieces: np.ndarray) -> None:
        for name, piece in pieces.items():
            shape, dtype = types[name]
            if piece.shape[1:] != shape[1:]:
                raise ValueError(f"{name}: rows must be {shape[1:]}, got {piece.shape[1:]}")
            with _explained(path):
                sizes[name] += files[name].write(np.ascontiguousarray(piece, dtype).reshape(-1).view(np.uint8))

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent))
        for name, (shape, dtype) in types.items():
            files[name] = file = stack.enter_context(Path(folder, f"{name}.npy").open("wb"))
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        yield append
        for name, (shape, dtype) in types.items():
            if sizes[name] != (expected := int(np.prod(shape)) * dtype.itemsize):
                raise ValueError(f"{name}: {expected} bytes were to come, for shape {shape}, and {sizes[name]} came")
        # Times before 1980 become 1980: equal arrays make equal files.
        with replacing(path) as part, zipfile.ZipFile(part, "w", strict_timestamps=False) as archive:
            for name, file in files.items():
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

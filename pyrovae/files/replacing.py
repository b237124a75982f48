"""Write beside, then replace."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file's path beside `path`: it takes the place of `path` when all went well, and is gone otherwise.

    Raises:
        OSError: It cannot be written; the message names `path` and says what to do.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # beside: a move between disks is a copy
    try:
        with explained(path):
            yield part
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors of input and output, inside, name `path` and say what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror or error}); make room, or write elsewhere") from error


def check_writable(folder: Path, remedy: str) -> None:
    """Makes `folder` if need be, and tries it out: before the work, not after.

    Raises:
        OSError: It cannot be written; the message ends with `remedy`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {folder} ({error.strerror}); {remedy}") from error

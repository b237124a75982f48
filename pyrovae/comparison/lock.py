"""One comparison at a time in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..config import ConfigError
from ..files import check_writable


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Holds a folder; gives the descriptor of the lock, which ends with the last process that has it.

    Raises:
        ConfigError: Another comparison, or a cell that it left behind, is at work there.
    """
    import fcntl  # noqa: PLC0415 - not on every system

    check_writable(folder, "name another place with --out")
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{folder}: a comparison is at work there; wait for it, or name another --out") from error
        yield file.fileno()

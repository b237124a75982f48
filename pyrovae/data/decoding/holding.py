"""One process at a time fills a cache."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .cache import Cache, explained


@contextmanager
def held(cache: Cache) -> Iterator[None]:
    """The cache is this process's own; waits for another. The lock ends with its process, however that ends.

    Raises:
        OSError: The folder cannot be written.
    """
    import fcntl  # noqa: PLC0415 - not on every system

    with explained(cache):
        cache.folder.mkdir(parents=True, exist_ok=True)
        lock = (cache.folder / "lock").open("a")
    with lock:
        with explained(cache):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{cache.name}: another process is decoding into {cache.folder}: waiting for it", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield

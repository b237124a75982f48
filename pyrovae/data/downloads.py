"""What reading a set through torchvision needs: silence, and an end to waiting."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO


@contextmanager
def quietly(seconds: float = 10.0) -> Iterator[None]:
    """No prints, no progress bars, and no network operation that lasts longer; torchvision sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).strip().splitlines()[0].rstrip(":") if str(error).strip() else type(error).__name__

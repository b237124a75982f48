"""Run one Pyro program within another."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK


@contextmanager
def isolated() -> Iterator[None]:
    """Inside, no handler from outside sees a site, and plates start again from the rightmost dimension.

    `poutine.block` hides sites; the dimensions that plates outside hold are known to one global allocator, which has
    no public way to set them aside. An empty stack also tells `Capture` that no handler would be lost in the graph.
    """
    handlers, dims = _PYRO_STACK[:], _DIM_ALLOCATOR._stack
    _PYRO_STACK.clear()
    _DIM_ALLOCATOR._stack = []
    try:
        yield
    finally:
        _PYRO_STACK[:] = handlers
        _DIM_ALLOCATOR._stack = dims


def is_isolated() -> bool:
    """Whether no Pyro handler is at work."""
    return not _PYRO_STACK

"""Run one Pyro program within another."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK

Surroundings = tuple[list[Any], list[Any]]  # Pyro handlers at work, and plates that hold dimensions


def surroundings() -> Surroundings:
    """Those of here and now, for `isolated` to put in their place later."""
    return _PYRO_STACK[:], _DIM_ALLOCATOR._stack[:]


@contextmanager
def isolated(instead: Surroundings | None = None) -> Iterator[None]:
    """Inside, no handler from outside sees a site, and plates start again from the rightmost dimension.

    Or else the surroundings are those given `instead`, so that what ran there runs again as it did.

    `poutine.block` hides sites; the dimensions that plates outside hold are known to one global allocator, which has
    no public way to set them aside. An empty stack also tells `Capture` that no handler would be lost in the graph.
    """
    handlers, dims = _PYRO_STACK[:], _DIM_ALLOCATOR._stack
    _PYRO_STACK[:], _DIM_ALLOCATOR._stack = ([], []) if instead is None else (instead[0], instead[1][:])
    try:
        yield
    finally:
        _PYRO_STACK[:] = handlers
        _DIM_ALLOCATOR._stack = dims


def is_isolated() -> bool:
    """Whether no Pyro handler is at work."""
    return not _PYRO_STACK

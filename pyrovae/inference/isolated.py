"""Run one Pyro program within another."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyro import poutine
from pyro.poutine.runtime import _DIM_ALLOCATOR


@contextmanager
def isolated() -> Iterator[None]:
    """Inside, no handler from outside sees a site, and plates start again from the rightmost dimension.

    `poutine.block` hides sites; the dimensions that plates outside hold are known to one global allocator, which has
    no public way to set them aside.
    """
    outside = _DIM_ALLOCATOR._stack
    _DIM_ALLOCATOR._stack = []
    try:
        with poutine.block():
            yield
    finally:
        _DIM_ALLOCATOR._stack = outside

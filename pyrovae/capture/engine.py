"""Eager or compiled: one switch."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple, get_args

Engine = Literal["auto", "eager", "compiled"]

# A captured call saves 1.5 to 5 ms of Pyro's and autograd's time, and compiling takes 5 to 15 s (docs/results.md).
REPAID_AFTER = 5000


class _Choice(NamedTuple):
    engine: Engine
    num_batches: int | None


_AUTO = _Choice("auto", None)
_choice: ContextVar[_Choice] = ContextVar("engine", default=_AUTO)


@contextmanager
def engine(choice: Engine, num_batches: int | None = None) -> Iterator[None]:
    """Inside, what can be captured as a graph runs `eager` or `compiled`, to the same results.

    `auto` compiles what will be called at least 5,000 times in `num_batches` batches. Where that number is unknown, it
    compiles what *was* called so often: then at most as much time is lost as eager calls have cost by then.

    Args:
        choice: `auto`, `eager` or `compiled`.
        num_batches: How many batches are to come in all.

    Raises:
        ValueError: Another choice.
    """
    if choice not in get_args(Engine):
        raise ValueError(f"engine must be auto, eager or compiled, got {choice!r}")
    token = _choice.set(_Choice(choice, num_batches))
    try:
        yield
    finally:
        _choice.reset(token)


def compiling_pays(calls_a_batch: int, calls_so_far: int) -> bool:
    """The rule of `engine`, for a function that is called `calls_a_batch` times a batch."""
    choice = _choice.get()
    if choice.engine != "auto":
        return choice.engine == "compiled"
    calls = calls_so_far if choice.num_batches is None else calls_a_batch * choice.num_batches
    return calls >= REPAID_AFTER

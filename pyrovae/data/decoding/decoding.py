"""Many files to arrays of one shape: once, into a cache, or whenever they are read."""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import DataError
from ..rows import Mapped, Rows
from ..sizes import size
from .cache import BAD, GOOD, UNKNOWN, Cache, Stored
from .filling import Filling
from .holding import held
from .items import Items
from .streaming import OnBad, Streamed

__all__ = ["OnBad", "decoded"]

Item = TypeVar("Item")

_AHEAD = 16  # items a thread that may wait to be written, so that memory does not grow with their number


def decoded(
    name: str,
    items: Sequence[Item],
    read: Callable[[Item], np.ndarray],
    *,
    shape: tuple[int, ...],
    settings: Mapping[str, Any],
    cache: bool | str = True,
    on_bad: OnBad = "error",
    num_workers: int = 2,
    dtype: str = "uint8",
) -> tuple[Rows, Tensor]:
    """Rows, of which number i is `read(items[i])`, and the numbers of those that could be read.

    Args:
        name: Of the data set.
        items: Files, tuples that hold files, or whatever `read` takes and `repr` tells apart.
        read: To an array of `shape`, in any thread; raises `DataError` for a damaged item.
        shape: Of a datapoint.
        settings: All that the arrays depend on, besides the items: plain values.
        cache: Decode once, into the folder of that name, or the user's; `False` decodes when a batch is asked for.
        on_bad: Whether a damaged item is an error, or left out. Without a cache that is found out too late to leave it
            out, and another takes its place.
        num_workers: Threads that decode.
        dtype: Of a datapoint.

    Raises:
        DataError: A damaged item, or nothing but damaged ones.
        OSError: No room for the cache, or a folder that cannot be written.
    """
    them = Items(name, items, read, shape, np.dtype(dtype))
    if cache is False:
        return Streamed(them, on_bad), torch.arange(len(items))
    where = Cache(them, settings, cache)
    stored = where.stored()
    if stored is None:
        with held(where):
            stored = where.stored()  # another process may have filled it meanwhile
            if stored is None:
                _fill(where, them, on_bad, num_workers)
                stored = where.stored()
    assert stored is not None
    return Mapped(stored.values), _good(where, stored, them, on_bad)


def _fill(cache: Cache, items: Items, on_bad: OnBad, num_workers: int) -> None:
    with Filling(cache) as filling:
        todo = np.flatnonzero(filling.states == UNKNOWN if on_bad == "skip" else filling.states != GOOD)
        done = len(items) - len(todo)
        text = f"decoding {items.name}" + (f": taken up at {done * 100 // len(items)}%" if done else "")
        print(f"{text}, {len(items)} files to {size(cache.num_bytes)} in {cache.folder}", file=sys.stderr)
        bar = tqdm(total=len(items), initial=done, desc=text, unit="file", disable=None)
        with bar, closing(_in_order(items, todo.tolist(), max(1, num_workers))) as numbered:
            for number, made in numbered:
                if not isinstance(made, DataError):
                    filling.write(number, made)
                elif on_bad == "skip":
                    filling.leave_out(number)
                else:
                    raise items.refused(made) from made
                bar.update()
        filling.complete()


def _in_order(
    items: Items, numbers: Iterable[int], num_workers: int
) -> Generator[tuple[int, np.ndarray | DataError], None, None]:
    """Each number, with its array or what is wrong with it."""
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="decoding")  # Pillow decodes without interpreter lock
    ahead: deque[tuple[int, Future[np.ndarray | DataError]]] = deque()
    try:
        for number in numbers:
            ahead.append((number, pool.submit(_tried, items, number)))
            if len(ahead) > _AHEAD * num_workers:
                first, decoding = ahead.popleft()
                yield first, decoding.result()
        for rest, decoding in ahead:
            yield rest, decoding.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _tried(items: Items, number: int) -> np.ndarray | DataError:
    try:
        return items.decode(number)
    except DataError as error:
        return error


def _good(cache: Cache, stored: Stored, items: Items, on_bad: OnBad) -> Tensor:
    """Numbers of what could be read. A line says what could not."""
    bad = np.flatnonzero(stored.states == BAD).tolist()
    if bad and on_bad == "error":
        first = items.items[bad[0]]
        if isinstance(error := _tried(items, bad[0]), DataError):
            raise items.refused(error) from error
        raise DataError(f"{items.name}: {first} could not be read when it was cached; remove {cache.folder}")
    if len(bad) == len(items):
        raise DataError(f"{items.name}: none of {len(items)} files can be read, {items.items[0]} say")
    if bad:
        some = ", ".join(str(items.items[number]) for number in bad[:3]) + (", ..." if len(bad) > 3 else "")
        print(
            f"{items.name}: {len(bad)} of {len(items)} files cannot be read and are left out: {some}", file=sys.stderr
        )
    return torch.from_numpy(np.flatnonzero(stored.states == GOOD))

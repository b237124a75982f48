"""Many files to arrays of one shape: once, into a cache, or whenever they are read."""

import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .cache import BAD, GOOD, UNKNOWN, Cache, Items, Made, locked
from .errors import DataError
from .rows import Mapped, Rows, Subset
from .sizes import size

OnBad = Literal["error", "skip"]

_BLOCK = 128  # items from one flush to the next
_AHEAD = 16  # items a thread that may wait to be written, so that memory does not grow with their number


def decoded(
    name: str,
    items: Sequence[Any],
    read: Callable[[Any], np.ndarray],
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
        items: Paths, or anything that `repr` tells apart.
        read: To an array of `shape` and `dtype`, in any thread; raises `DataError` for a damaged item.
        settings: All that the arrays depend on, besides the items: plain values.
        cache: Decode once, into the folder of that name, or the user's; `False` decodes when a batch is asked for.
        on_bad: Whether a damaged item is an error, or left out. Without a cache that is found out too late to leave it
            out, and another takes its place.

    Raises:
        DataError: No items, a damaged one, or nothing but damaged ones.
        OSError: No room for the cache, or a folder that cannot be written.
    """
    if not len(items):
        raise DataError(f"{name}: nothing to decode; name a folder that holds files")
    them = Items(name, items, read, shape, np.dtype(dtype))
    if cache is False:
        return Streamed(them, on_bad, np.arange(len(items))), torch.arange(len(items))
    where = Cache(them, settings, cache)
    try:
        stored = where.stored()
        if stored is None:
            where.folder.mkdir(parents=True, exist_ok=True)
            with locked(where.folder / "lock", f"{name}: another process is decoding into {where.folder}"):
                if where.stored() is None:  # another process may have filled it meanwhile
                    _fill(where, them, on_bad, num_workers)
            stored = where.stored()
    except OSError as error:
        raise OSError(
            f"{name}: cannot use the cache {where.folder} ({error.strerror or error}); name another folder with "
            "dataset.cache=DIR, or keep nothing with dataset.cache=false"
        ) from error
    assert stored is not None
    return Mapped(stored[0]), _good(where, stored[1], them, on_bad)


def _fill(cache: Cache, items: Items, on_bad: OnBad, num_workers: int) -> None:
    states, start = cache.begin(), time.monotonic()
    todo = np.flatnonzero(states == UNKNOWN if on_bad == "skip" else states != GOOD).tolist()
    done = len(states) - len(todo)
    text = f"decoding {items.name}" + (f": taken up at {done * 100 // len(states)}%" if done else "")
    print(f"{text}, {len(states)} files to {size(cache.num_bytes)} in {cache.folder}", file=sys.stderr)
    with (
        tqdm(total=len(states), initial=done, desc=text, unit="file", disable=None) as bar,
        closing(_in_order(items, todo, max(1, num_workers))) as made,
    ):
        while some := cache.write(states, islice(made, _BLOCK), skip=on_bad == "skip"):
            bar.update(some)
        silent = bar.disable
    cache.complete()
    if silent:
        print(f"decoded {items.name} in {time.monotonic() - start:.1f} s", file=sys.stderr)


def _in_order(items: Items, numbers: list[int], num_workers: int) -> Generator[Made, None, None]:
    """Each number, with its array or what is wrong with it."""
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="decoding")  # Pillow decodes without interpreter lock
    ahead: deque[tuple[int, Future[np.ndarray | DataError]]] = deque()
    try:
        for number in numbers:
            ahead.append((number, pool.submit(items.decode, number)))
            if len(ahead) > _AHEAD * num_workers:
                first, decoding = ahead.popleft()
                yield first, decoding.result()
        for rest, decoding in ahead:
            yield rest, decoding.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _good(cache: Cache, states: np.ndarray, items: Items, on_bad: OnBad) -> Tensor:
    """Numbers of what could be read. A line tells what could not."""
    bad = np.flatnonzero(states == BAD).tolist()
    if bad and on_bad == "error":
        if isinstance(error := items.decode(bad[0]), DataError):
            raise items.refused(error) from error
        first = items.items[bad[0]]
        raise DataError(f"{items.name}: {first} could not be read when it was cached; remove {cache.folder}")
    if len(bad) == len(states):
        raise DataError(f"{items.name}: none of {len(bad)} files can be read, {items.items[0]} the first of them")
    if bad:
        some = ", ".join(str(items.items[number]) for number in bad[:3]) + (", ..." if len(bad) > 3 else "")
        what = f"{len(bad)} of {len(states)} files cannot be read and are left out: {some}"
        print(f"{items.name}: {what}", file=sys.stderr)
    return torch.from_numpy(np.flatnonzero(states == GOOD))


@dataclass(eq=False, repr=False)
class Streamed(Rows):
    """Row i is item i, decoded anew each time; any number of threads may read.

    With `skip` the place of a damaged item is taken by the next good one of the same split, its `members`, in the order
    of the items: most often one of its class.
    """

    items: Items
    on_bad: OnBad
    members: np.ndarray
    known_bad: dict[int, object] = field(default_factory=dict)  # shared by the splits

    def __post_init__(self) -> None:
        self.place = "files, decoded when read"
        self.shape = (len(self.items.items), *self.items.shape)
        self.dtype = torch.from_numpy(np.empty(0, self.items.dtype)).dtype

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        values = np.empty((len(numbers), *self.items.shape), self.items.dtype)
        for row, number in enumerate(numbers.tolist()):
            values[row] = self._decode(number)
        return torch.from_numpy(values)

    def subset(self, numbers: Tensor) -> Rows:
        members = np.unique(numbers.numpy())
        return Subset(Streamed(self.items, self.on_bad, members, self.known_bad), numbers)

    def _decode(self, number: int) -> np.ndarray:
        for candidate in self._candidates(number):
            if candidate in self.known_bad:
                continue
            made, own = self.items.decode(candidate), object()
            if not isinstance(made, DataError):
                return made
            if self.on_bad == "error":
                raise self.items.refused(made) from made
            if self.known_bad.setdefault(candidate, own) is own:  # of several threads one tells of it
                print(f"{self.items.name}: {made}; another takes its place", file=sys.stderr)
        raise DataError(f"{self.items.name}: none of {len(self.members)} files of a split can be read")

    def _candidates(self, number: int) -> Iterator[int]:
        """The item itself, then those that may take its place."""
        yield number
        if self.on_bad == "skip":
            after = int(np.searchsorted(self.members, number, side="right"))
            yield from np.roll(self.members, -after).tolist()

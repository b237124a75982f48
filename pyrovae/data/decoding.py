"""Many files to arrays of one shape: once, into a folder that keeps them, or whenever they are read."""

import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from .errors import DataError
from .outside import cache_folder
from .rows import Mapped, Rows, in_order
from .sizes import size

OnBad = Literal["error", "skip"]
Made = tuple[np.ndarray | DataError, int]  # the array of an item, or what is wrong with it, and its number

_VERSION = 1  # of decoding: raise it when arrays change, and every cache is made anew
_BLOCK = 128  # items from one flush to the next
_AHEAD = 16  # items a thread that may wait to be written, so that memory does not grow with their number
_UNKNOWN, _GOOD, _BAD = 0, 1, 2  # states of an item


@dataclass(frozen=True)
class Items:
    """Files, or parts of files, and how each becomes an array.

    Attributes:
        name: Of the data set.
        items: Paths, or anything that `repr` tells apart.
        read: To an array of `shape` and `dtype`, in any thread; raises `DataError` for a damaged item.
        settings: All that the arrays depend on, besides the items: plain values.
    """

    name: str
    items: Sequence[Any]
    read: Callable[[Any], np.ndarray]
    shape: tuple[int, ...]
    settings: Mapping[str, Any]
    dtype: str = "uint8"

    def decode(self, number: int) -> np.ndarray | DataError:
        """The array `shape` of an item, or what is wrong with it."""
        try:
            array = self.read(self.items[number])
        except DataError as error:
            return error
        if array.shape != self.shape:
            what = f"{self.items[number]} gives {array.shape} instead of {self.shape}"
            return DataError(f"{what}; set dataset.image_size, or mend or remove it")
        return array.astype(self.dtype, casting="same_kind", copy=False)

    def decoded(self, numbers: Iterable[int], num_workers: int) -> Generator[Made, None, None]:
        """Each of these items in turn, by threads: Pillow decodes without interpreter lock."""
        num_workers = max(1, num_workers)
        return in_order(self.decode, numbers, num_workers, _AHEAD * num_workers)

    def refused(self, reason: object) -> DataError:
        """What is wrong with an item, when that is not to be passed over."""
        return DataError(f"{self.name}: {reason}, or set dataset.on_bad: skip")


def decoded(
    items: Items, *, cache: bool | str = True, on_bad: OnBad = "error", num_workers: int = 2
) -> tuple[Rows, Tensor]:
    """Rows, of which number i is the array of item i, and the numbers of those that could be read.

    Args:
        items: What to decode.
        cache: Decode once, into the folder of that name, or the user's; `False` decodes when a batch is asked for.
        on_bad: Whether a damaged item is an error, or left out: without a cache each is decoded once to find out.
        num_workers: Threads.

    Raises:
        DataError: No items, a damaged one, or nothing but damaged ones.
        OSError: No room for the cache, or a folder that cannot be written.
    """
    name, files = items.name, items.items
    if not len(files):
        raise DataError(f"{name}: nothing to decode; name a folder that holds files")
    if cache is False:
        rows: Rows = Streamed(items)
        states = np.full(len(files), _GOOD)
        if on_bad == "skip":
            made = items.decoded(range(len(files)), num_workers)
            looked = tqdm(made, f"reading {name} once, for damaged files", len(files), unit="file", disable=None)
            states[[number for array, number in looked if isinstance(array, DataError)]] = _BAD
    else:
        where = _Cache(items, cache, skip=on_bad == "skip")
        try:
            arrays, states = where.stored() or where.filled(num_workers)
        except OSError as error:
            raise OSError(
                f"{name}: cannot use the cache {where.folder} ({error.strerror or error}); name another folder with "
                "dataset.cache=DIR, or keep nothing with dataset.cache=false"
            ) from error
        rows = Mapped(arrays)
    if bad := [files[number] for number in np.flatnonzero(states == _BAD).tolist()]:
        if len(bad) == len(files):
            raise DataError(f"{name}: none of {len(bad)} files can be read, {bad[0]} the first of them")
        some = ", ".join(map(str, bad[:3])) + (", ..." if len(bad) > 3 else "")
        print(f"{name}: {len(bad)} of {len(files)} files cannot be read and are left out: {some}", file=sys.stderr)
    return rows, torch.from_numpy(np.flatnonzero(states == _GOOD))


class _Cache:
    """The folder of a data set's arrays, named after all that they depend on. Who fills it holds its lock.

    It holds `settings.json`, for people; `arrays.npy`; and `states.npy`, the state of each item, which comes last.
    `within` is the folder of all caches, or True for the user's; `skip` leaves bad items as they are.
    """

    def __init__(self, items: Items, within: str | bool, *, skip: bool) -> None:
        self.items, self.skip, self.shape = items, skip, (len(items.items), *items.shape)
        facts = {"name": items.name, "shape": list(self.shape), "dtype": items.dtype, "settings": dict(items.settings)}
        self.about = {"version": _VERSION, **facts}
        key = hashlib.sha256(json.dumps(self.about, sort_keys=True, default=str).encode())
        # Of files below the folder common to all, so that a tree that is moved is the same.
        folders = {os.path.dirname(item) for item in items.items if isinstance(item, Path)}
        common = len(os.path.commonpath(folders)) if folders else 0
        for item in items.items:
            stamp = repr(item)
            if isinstance(item, Path):
                try:
                    about = os.stat(item)
                    stamp = f"{os.fspath(item)[common:]} {about.st_size} {about.st_mtime_ns}"
                except OSError:  # it will be damaged when it is read
                    stamp = f"{os.fspath(item)[common:]} gone"
            key.update(os.fsencode(stamp + "\n"))
        base = Path(within).expanduser() if isinstance(within, str) else cache_folder()
        self.folder = base / f"{items.name.lower()}-{key.hexdigest()[:16]}"
        self.arrays, self.states = self.folder / "arrays.npy", self.folder / "states.npy"

    def stored(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Arrays (N, *shape) and states (N,), mapped, if complete. Needs neither the lock nor leave to write."""
        found = self._mapped()
        return None if found is None or len(self._todo(found[1])) else found

    def filled(self, num_workers: int) -> tuple[np.ndarray, np.ndarray]:
        """`stored`, by another process meanwhile, or after decoding what an earlier one has left."""
        name, start = self.items.name, time.monotonic()
        num_bytes = 128 + math.prod(self.shape) * np.dtype(self.items.dtype).itemsize  # with a header
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lock", f"{name}: another process is decoding into {self.folder}"):
            if found := self.stored():
                return found
            if self._mapped() is None:
                self._allocate(num_bytes)
            states = np.lib.format.open_memmap(self.states, mode="r+")
            todo, num = self._todo(states).tolist(), len(states)
            done = num - len(todo)
            text = f"decoding {name}" + (f": taken up at {done * 100 // num}%" if done else "")
            print(f"{text}, {num} files to {size(num_bytes)} in {self.folder}", file=sys.stderr)
            with (
                tqdm(total=num, initial=done, desc=text, unit="file", disable=None) as bar,
                closing(self.items.decoded(todo, num_workers)) as made,
            ):
                while some := self._write(states, islice(made, _BLOCK)):
                    bar.update(some)
                if bar.disable:
                    print(f"decoded {name} in {time.monotonic() - start:.1f} s", file=sys.stderr)
            return np.lib.format.open_memmap(self.arrays, mode="r"), states

    def _todo(self, states: np.ndarray) -> np.ndarray:
        return np.flatnonzero(states == _UNKNOWN if self.skip else states != _GOOD)

    def _write(self, states: np.memmap, block: Iterable[Made]) -> int:
        """Keeps what was made of some items, and returns how many; an error among them keeps those before it.

        An item counts as done when its array is safely on disk. Arrays are written, not mapped: a full disk is an error
        then, and no crash.
        """
        done: dict[int, int] = {}
        with self.arrays.open("r+b", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            try:
                for made, number in block:
                    if not isinstance(made, DataError):
                        data = np.ascontiguousarray(made).reshape(-1).view(np.uint8).data
                        place = end - (self.shape[0] - number) * len(data)
                        while data:  # what a nearly full disk takes may be less
                            written = os.pwrite(file.fileno(), data, place)
                            data, place = data[written:], place + written
                    elif not self.skip:
                        raise self.items.refused(made) from made
                    done[number] = _BAD if isinstance(made, DataError) else _GOOD
            finally:
                if done:
                    os.fsync(file)  # first the arrays, then the word that they are there
                    states[list(done)] = list(done.values())
                    states.flush()
        return len(done)

    def _mapped(self) -> tuple[np.memmap, np.memmap] | None:
        """Arrays and states, if both files are there and whole."""
        try:
            arrays, states = (np.lib.format.open_memmap(file, mode="r") for file in (self.arrays, self.states))
        except (FileNotFoundError, EOFError, ValueError):
            return None
        of = [(values.shape, values.dtype, values.offset + values.nbytes) for values in (arrays, states)]
        sizes = [file.stat().st_size for file in (self.arrays, self.states)]
        whole = [(self.shape, self.items.dtype, sizes[0]), (self.shape[:1], "uint8", sizes[1])]
        return (arrays, states) if of == whole else None

    def _allocate(self, num_bytes: int) -> None:
        """New files for arrays and states. States come last: without them, arrays count as nothing."""
        for old in (self.states, self.arrays):
            old.unlink(missing_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < num_bytes:
            raise OSError(f"decoded, it takes {size(num_bytes)}, and {size(free)} are free")
        (self.folder / "settings.json").write_text(json.dumps(self.about, indent=2, default=str) + "\n")
        try:
            np.lib.format.open_memmap(self.arrays, mode="w+", dtype=self.items.dtype, shape=self.shape)
            with self.arrays.open("r+b") as file:
                if hasattr(os, "posix_fallocate"):  # takes the room now, rather than to find it gone half-way
                    os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
                os.fsync(file)
        except OSError:
            self.arrays.unlink(missing_ok=True)
            raise
        np.save(self.states, np.full(self.shape[0], _UNKNOWN, np.uint8))


class Streamed(Rows):
    """Row i is item i, decoded anew each time; any number of threads may read."""

    place = "files, decoded when read"

    def __init__(self, items: Items) -> None:
        self.items, self.shape, self.dtype = items, (len(items.items), *items.shape), getattr(torch, items.dtype)

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        values = np.empty((len(numbers), *self.items.shape), self.items.dtype)
        for row, number in enumerate(numbers.tolist()):
            made = self.items.decode(number)
            if isinstance(made, DataError):
                raise self.items.refused(made) from made
            values[row] = made
        return torch.from_numpy(values)


def locked(file: Path, other: str) -> AbstractContextManager[Any]:
    """One process at a time is inside; the lock ends with its process. `other` tells of the one that is waited for."""
    lock = FileLock(file)
    try:
        return lock.acquire(blocking=False)
    except Timeout:
        print(f"{other}: waiting for it", file=sys.stderr)
        return lock.acquire()

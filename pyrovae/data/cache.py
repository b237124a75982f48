"""What is decoded, item by item, and the folder that keeps it, filled so that a kill costs a few items and no more."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout

from .errors import DataError
from .outside import cache_folder
from .sizes import size

VERSION = 1  # of decoding: raise it when arrays change, and every cache is made anew
UNKNOWN, GOOD, BAD = 0, 1, 2  # states of an item
Made = tuple[int, np.ndarray | DataError]  # the number of an item, and its array or what is wrong with it


@dataclass(frozen=True)
class Items:
    """Files, or parts of files, and how each becomes an array; attributes are arguments of `decoded`."""

    name: str
    items: Sequence[Any]
    read: Callable[[Any], np.ndarray]
    shape: tuple[int, ...]
    dtype: np.dtype

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

    def refused(self, error: DataError) -> DataError:
        """What is wrong with an item, when that is not to be passed over."""
        return DataError(f"{self.name}: {error}, or set dataset.on_bad: skip")

    def stamps(self) -> Iterator[str]:
        """Of each file, its path below the folder common to all, its size and the time of its last change.

        A tree that is moved keeps its stamps.
        """
        files = [os.fspath(item) for item in self.items if isinstance(item, Path)]
        folders = {os.path.dirname(file) for file in files}
        skip = len(os.path.commonpath(folders)) if folders else 0
        for item in self.items:
            yield _stamp(os.fspath(item), skip) if isinstance(item, Path) else repr(item)


class Cache:
    """The folder of a data set's arrays, named after all that they depend on. Who fills it holds its lock.

    It holds `settings.json`, for people; `states.npy`, the state of each item; and `arrays.npy`, which is complete:
    until then it is `arrays.npy.part`. `within` is the folder of all caches, or True for the user's.
    """

    def __init__(self, items: Items, settings: Mapping[str, Any], within: str | bool) -> None:
        self.items, self.shape, self.dtype = items, (len(items.items), *items.shape), items.dtype
        facts = {"name": items.name, "shape": list(self.shape), "dtype": self.dtype.name, "settings": dict(settings)}
        about = {"version": VERSION, **facts}
        key = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
        for stamp in items.stamps():
            key.update(os.fsencode(stamp + "\n"))
        self.about = json.dumps(about, indent=2, default=str) + "\n"
        self.folder = (
            Path(within).expanduser() if isinstance(within, str) else cache_folder()
        ) / f"{items.name.lower()}-{key.hexdigest()[:16]}"
        self.arrays, self.states = self.folder / "arrays.npy", self.folder / "states.npy"
        self.part = self.folder / "arrays.npy.part"
        self.num_bytes = 128 + int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize  # with a header

    def stored(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Arrays (N, *shape), mapped, and states (N,), if complete. Needs neither the lock nor leave to write."""
        values, states = self._mapped(self.arrays), self._mapped(self.states)
        return None if values is None or states is None or (states == UNKNOWN).any() else (values, np.array(states))

    def begin(self) -> np.memmap:
        """States (N,) of what an earlier process has left, or of empty files."""
        if self._mapped(self.part) is None or self._mapped(self.states) is None:
            for old in (self.arrays, self.states, self.part):
                old.unlink(missing_ok=True)
            self._allocate()
        states = self._mapped(self.states, "r+")
        assert states is not None
        return states

    def write(self, states: np.memmap, block: Iterable[Made], *, skip: bool) -> int:
        """Keeps what was made of some items, and returns how many; an error among them keeps those before it.

        An item counts as done when its array is safely on disk. Arrays are written, not mapped: a full disk is an error
        then, and no crash.
        """
        done: dict[int, int] = {}
        with self.part.open("r+b", buffering=0) as file:
            end = os.fstat(file.fileno()).st_size
            try:
                for number, made in block:
                    if not isinstance(made, DataError):
                        data = np.ascontiguousarray(made).reshape(-1).view(np.uint8).data
                        _write(file.fileno(), data, end - (self.shape[0] - number) * len(data))
                    elif not skip:
                        raise self.items.refused(made) from made
                    done[number] = BAD if isinstance(made, DataError) else GOOD
            finally:
                if done:
                    os.fsync(file)  # first the arrays, then the word that they are there
                    states[list(done)] = list(done.values())
                    states.flush()
        return len(done)

    def complete(self) -> None:
        """All items are done."""
        os.replace(self.part, self.arrays)

    def _mapped(self, file: Path, mode: Literal["r", "r+"] = "r") -> np.memmap | None:
        """The array of one of the files, if that is there and whole."""
        shape, dtype = (self.shape[:1], np.uint8) if file == self.states else (self.shape, self.dtype)
        try:
            values = np.lib.format.open_memmap(file, mode=mode)
        except (FileNotFoundError, EOFError, ValueError):
            return None
        whole = values.shape == shape and values.dtype == dtype and values.offset + values.nbytes == file.stat().st_size
        return values if whole else None

    def _allocate(self) -> None:
        """Files for arrays and states. States come last; a part of either file counts as nothing."""
        free = shutil.disk_usage(self.folder).free
        if free < self.num_bytes:
            raise OSError(f"decoded, it takes {size(self.num_bytes)}, and {size(free)} are free")
        (self.folder / "settings.json").write_text(self.about)
        try:
            np.lib.format.open_memmap(self.part, mode="w+", dtype=self.dtype, shape=self.shape)
            with self.part.open("r+b") as file:
                if hasattr(os, "posix_fallocate"):  # takes the room now, rather than to find it gone half-way
                    os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
                os.fsync(file)
        except OSError:
            self.part.unlink(missing_ok=True)
            raise
        np.save(self.states, np.full(self.shape[0], UNKNOWN, np.uint8))


@contextmanager
def locked(file: Path, other: str) -> Iterator[None]:
    """One process at a time is inside; the lock ends with its process. `other` tells of the one that is waited for."""
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"{other}: waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _stamp(path: str, skip: int) -> str:
    try:
        about = os.stat(path)
    except OSError:  # it will be damaged when it is read
        return f"{path[skip:]} gone"
    return f"{path[skip:]} {about.st_size} {about.st_mtime_ns}"


def _write(file: int, data: memoryview, place: int) -> None:
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written

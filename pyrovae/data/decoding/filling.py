"""Filling a cache, so that a kill costs a few items and no more."""

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..sizes import size
from .cache import BAD, GOOD, REMEDY, UNKNOWN, Cache, explained

_BLOCK = 128  # items from one flush to the next


class Filling:
    """An array that is being filled, item by item, by the process that holds the cache.

    An item counts as done when its array is safely on disk; what was done before is found again. Arrays are written,
    not mapped: a full disk is an error then, and no crash.

    Args:
        cache: Incomplete, or damaged.

    Raises:
        OSError: Too little room, or the folder cannot be written.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self._pending: dict[int, int] = {}  # number of an item -> its state, once flushed
        self._start = len(cache.header)
        states = cache.load_states("r+") if cache.is_whole(cache.part) else None
        if states is None:
            with explained(cache):
                for old in (cache.arrays, cache.states, cache.part):
                    old.unlink(missing_ok=True)
            _check_room(cache)
            with explained(cache):
                _allocate(cache)
                states = cache.load_states("r+")
        assert states is not None
        self.states = states

    def __enter__(self) -> "Filling":
        with explained(self.cache):
            self._file = os.open(self.cache.part, os.O_RDWR)
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self._flush()  # also after an error: what is decoded stays decoded
        finally:
            os.close(self._file)

    def write(self, number: int, array: np.ndarray) -> None:
        """Keeps the array of an item."""
        data = np.ascontiguousarray(array)
        with explained(self.cache):
            _write(self._file, data.reshape(-1).view(np.uint8).data, self._start + number * data.nbytes)
        self._mark(number, GOOD)

    def leave_out(self, number: int) -> None:
        """Notes that an item is damaged."""
        self._mark(number, BAD)

    def complete(self) -> None:
        """Ends it: all items are done."""
        self._flush()
        assert not (self.states == UNKNOWN).any()
        with explained(self.cache):
            os.replace(self.cache.part, self.cache.arrays)
            _sync_folder(self.cache.folder)

    def _mark(self, number: int, state: int) -> None:
        self._pending[number] = state
        if len(self._pending) >= _BLOCK:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        with explained(self.cache):
            os.fsync(self._file)  # first the arrays, then the word that they are there
            self.states[list(self._pending)] = list(self._pending.values())
            self.states.flush()  # type: ignore[attr-defined] # a memmap
        self._pending.clear()


def _check_room(cache: Cache) -> None:
    free = shutil.disk_usage(cache.folder).free
    if free < cache.num_bytes:
        raise OSError(
            f"{cache.name}: decoded, it takes {size(cache.num_bytes)}, and {cache.folder.parent} has "
            f"{size(free)} free; make room, {REMEDY}"
        )


def _allocate(cache: Cache) -> None:
    """Files for arrays and states. States come last: where they are, the other is whole."""
    about = json.dumps({**cache.about, "first_item": cache.first_item}, indent=2, default=str)
    _replace(cache.folder / "settings.json", f"{about}\n".encode())
    try:
        with cache.part.open("wb") as file:
            file.write(cache.header)
            file.truncate(cache.num_bytes)
            if hasattr(os, "posix_fallocate"):  # takes the room now, rather than to find it gone half-way
                os.posix_fallocate(file.fileno(), 0, cache.num_bytes)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        cache.part.unlink(missing_ok=True)
        raise
    states = io.BytesIO()
    np.save(states, np.full(cache.shape[0], UNKNOWN, np.uint8))
    _replace(cache.states, states.getvalue())
    _sync_folder(cache.folder)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _write(file: int, data: memoryview, place: int) -> None:
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

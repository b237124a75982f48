"""Where decoded arrays are kept, and how they are found again."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .items import Items

VERSION = 1  # of decoding: raise it when arrays change, and every cache is made anew
UNKNOWN, GOOD, BAD = 0, 1, 2  # states of an item

REMEDY = "name another folder with dataset.cache=DIR, or keep nothing with dataset.cache=false"


class Stored(NamedTuple):
    """A complete cache."""

    values: np.ndarray  # (N, *shape), mapped
    states: np.ndarray  # (N,) uint8


class Cache:
    """The folder of one data set's arrays, named after all that they depend on.

    It holds `settings.json`, which tells people what; `states.npy`, the state of each item; and `arrays.npy`, which is
    complete, for until then it is `arrays.npy.part`.

    Args:
        items: What is decoded.
        settings: What arrays depend on besides: plain values.
        within: The folder of all caches; `True` is `PYROVAE_CACHE`, or else `pyrovae` in the user's cache folder.
    """

    def __init__(self, items: Items, settings: Mapping[str, Any], within: str | bool) -> None:
        self.name = items.name
        self.shape, self.dtype = (len(items), *items.shape), items.dtype
        self.about = {
            "version": VERSION,
            "name": items.name,
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "settings": dict(settings),
        }
        key = hashlib.sha256(json.dumps(self.about, sort_keys=True, default=str).encode())
        for stamp in items.stamps():
            key.update(os.fsencode(stamp + "\n"))
        self.first_item = str(items.items[0])
        self.folder = _within(within) / f"{items.name.lower()}-{key.hexdigest()[:16]}"

    @property
    def arrays(self) -> Path:
        return self.folder / "arrays.npy"

    @property
    def part(self) -> Path:
        return self.folder / "arrays.npy.part"

    @property
    def states(self) -> Path:
        return self.folder / "states.npy"

    @property
    def header(self) -> bytes:
        """What an .npy file of the arrays starts with."""
        text = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self.dtype)
        np.lib.format.write_array_header_1_0(text, {"descr": descr, "fortran_order": False, "shape": self.shape})
        return text.getvalue()

    @property
    def num_bytes(self) -> int:
        """Of the file of arrays."""
        return len(self.header) + int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def stored(self) -> Stored | None:
        """What is there, if it is complete and whole. Needs neither the lock nor leave to write."""
        with explained(self):
            if not self.is_whole(self.arrays):
                return None
            values = np.load(self.arrays, mmap_mode="r")
            states = self.load_states()
        return None if states is None or (states == UNKNOWN).any() else Stored(values, states)

    def is_whole(self, file: Path) -> bool:
        """Whether a file has the header and the size of the arrays."""
        try:
            with file.open("rb") as opened:
                return (
                    os.fstat(opened.fileno()).st_size == self.num_bytes and opened.read(len(self.header)) == self.header
                )
        except FileNotFoundError:
            return False

    def load_states(self, mmap_mode: Any = None) -> np.ndarray | None:
        """The state of each item (N,), if it can be read."""
        try:
            states = np.load(self.states, mmap_mode=mmap_mode)
        except (FileNotFoundError, EOFError, ValueError):
            return None
        return states if states.shape == self.shape[:1] and states.dtype == np.uint8 else None


@contextmanager
def explained(cache: Cache) -> Iterator[None]:
    """Errors of input and output, inside, name the folder and say what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{cache.name}: cannot use the cache {cache.folder} ({error.strerror or error}); {REMEDY}"
        ) from error


def _within(folder: str | bool) -> Path:
    if isinstance(folder, str):
        return Path(folder).expanduser()
    if chosen := os.environ.get("PYROVAE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyrovae"

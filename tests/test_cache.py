"""Items are decoded once, whatever happens meanwhile."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from pyrovae.data import DataError, Dataset, Mapped, decoding
from pyrovae.data.decoding import Items, decoded

N, SHAPE = 40, (1, 2, 3)
EVERY = torch.arange(N)
FORK = multiprocessing.get_context("fork")  # a child need not import torch again


class Reader:
    """A file of one number to an array full of it; notes in a file what it read."""

    def __init__(self, log: Path, halt_at: str = "", seconds: float = 0.0) -> None:
        self.log, self.halt_at, self.seconds = log, halt_at, seconds

    def __call__(self, file: Path) -> np.ndarray:
        if file.name == self.halt_at:
            time.sleep(600)
        time.sleep(self.seconds)
        with self.log.open("a") as log:
            log.write(f"{file.name}\n")
        try:
            return np.full(SHAPE, int(file.read_text()), np.uint8)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {file}; mend or remove it") from error

    def calls(self) -> Counter:
        names = self.log.read_text().split() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return Counter(names)


@pytest.fixture
def read(tmp_path):
    return Reader(tmp_path / "log")


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    for i in range(N):
        (folder / "sub" / f"{i:02}").write_text(str(3 * i))
    return sorted(folder.rglob("??"))


@pytest.fixture
def decode(tmp_path, files, read):
    def run(**options):
        what = {"items": files, "read": read, "shape": SHAPE, "settings": {"size": 3}}
        what |= {key: options.pop(key) for key in [*options] if key in (*what, "dtype")}
        return decoded(Items("Toy", **what), **{"cache": str(tmp_path / "cache"), **options})

    return run


@pytest.fixture
def folder(tmp_path):
    """The folder of the only cache."""

    def find() -> Path:
        (only,) = (tmp_path / "cache").iterdir()
        return only

    return find


def check(rows, numbers=EVERY):
    values = rows.read(numbers)
    assert values.dtype == torch.uint8
    assert torch.equal(values, (3 * numbers).to(torch.uint8)[:, None, None, None].expand(-1, *SHAPE))


def test_a_second_start_decodes_nothing_and_takes_no_lock(decode, read, folder, capsys):
    rows, good = decode()
    assert "decoding Toy, 40 files to 0.4 KiB in" in capsys.readouterr().err
    assert isinstance(rows, Mapped)
    assert torch.equal(good, EVERY)
    assert read.calls() == Counter({f"{i:02}": 1 for i in range(N)})
    assert {f.name for f in folder().iterdir()} == {"arrays.npy", "states.npy", "settings.json", "lock"}
    (folder() / "lock").unlink()
    folder().chmod(0o500)
    rows, _ = decode(num_workers=0)
    folder().chmod(0o700)
    assert not read.calls()
    assert not (folder() / "lock").exists()
    assert capsys.readouterr().err == ""
    check(rows)
    check(rows, EVERY.flip(0)[:7])


def test_a_log_has_a_line_at_the_start_and_one_at_the_end_and_no_bar(decode, capsys):
    decode()
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"decoding Toy, 40 files to .*\ndecoded Toy in \d+\.\d s\n", err)


def test_a_terminal_has_the_bar(decode, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    decode()
    err = capsys.readouterr().err
    assert "40/40" in err
    assert "decoded Toy" not in err


def test_a_cache_is_of_what_arrays_depend_on(decode, read, files, tmp_path):
    decode()
    assert len(read.calls()) == N
    moved = tmp_path / "elsewhere" / "deep"
    shutil.copytree(files[0].parent.parent, moved)  # with times
    moved_files = sorted(moved.rglob("??"))
    check(decode(items=moved_files)[0])
    assert not read.calls(), "a moved tree"
    os.utime(moved_files[3], ns=(0, 1))
    for change in ({"settings": {"size": 4}}, {"items": files[1:]}, {"dtype": "uint16"}, {"items": moved_files}):
        decode(**change)
        assert len(read.calls()) >= N - 1, change
        decode(**change)
        assert not read.calls()
    assert len(list((tmp_path / "cache").iterdir())) == 5


def start(job) -> multiprocessing.Process:
    process = FORK.Process(target=job)
    process.start()
    return process


def test_a_killed_start_is_taken_up(decode, read, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decoding, "_BLOCK", 4)
    halting = Reader(read.log, halt_at="26")
    child = start(lambda: decode(read=halting))

    def done() -> int:
        try:
            (found,) = (tmp_path / "cache").glob("*/states.npy")
            return int((np.load(found) > 0).sum())
        except (EOFError, ValueError):  # not there, or cut off while it is written
            return 0

    try:
        deadline = time.monotonic() + 60
        while done() < 24 and child.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    assert done() == 24, "flushed by fours"
    read.calls()
    capsys.readouterr()
    rows, _ = decode()
    assert read.calls() == Counter(f"{i:02}" for i in range(24, N))
    assert "decoding Toy: taken up at 60%" in capsys.readouterr().err
    check(rows)


def test_arrays_are_on_disk_before_an_item_counts_as_done(decode, monkeypatch):
    monkeypatch.setattr(decoding, "_BLOCK", 8)
    events = []
    for owner, name in ((os, "pwrite"), (os, "fsync"), (np.memmap, "flush")):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, real=real, name=name: (events.append(name), real(*args))[1])
    decode()
    events = events[events.index("pwrite") :]
    assert events == (["pwrite"] * 8 + ["fsync", "flush"]) * (N // 8)


def test_two_processes_decode_each_item_once(decode, read, capfd):
    slow = Reader(read.log, seconds=0.005)
    children = [start(lambda: check(decode(read=slow)[0])) for _ in range(2)]
    for child in children:
        child.join(60)
        child.kill()
    assert [child.exitcode for child in children] == [0, 0]
    assert read.calls() == Counter(f"{i:02}" for i in range(N))
    assert capfd.readouterr().err.count("Toy: another process is decoding into") == 1


def test_what_an_error_leaves_is_taken_up(decode, read, files):
    broken = files[20].read_text()
    files[20].write_text("xx")
    os.utime(files[20], ns=(0, 0))
    with pytest.raises(DataError):
        decode()
    read.calls()
    files[20].write_text(broken)  # of the same size and time: a file server that was away, say
    os.utime(files[20], ns=(0, 0))
    check(decode()[0])
    assert read.calls() == Counter(f"{i:02}" for i in range(20, N))


@pytest.mark.parametrize("damage", ["cut", "longer", "header", "empty", "states", "states cut", "states unknown"])
def test_a_damaged_cache_is_made_anew(decode, read, folder, damage):
    decode()
    read.calls()
    arrays, states = folder() / "arrays.npy", folder() / "states.npy"
    whole = arrays.read_bytes()
    match damage:
        case "cut":
            arrays.write_bytes(whole[:-1])
        case "longer":
            arrays.write_bytes(whole + b"x")
        case "header":
            arrays.write_bytes(b"x" * len(whole))
        case "empty":
            arrays.write_bytes(b"")
        case "states":
            states.unlink()
        case "states cut":
            states.write_bytes(states.read_bytes()[:50])
        case "states unknown":
            states.write_bytes(states.read_bytes()[:-1] + b"\0")
    check(decode()[0])
    assert read.calls().total() == (1 if damage == "states unknown" else N)
    assert arrays.read_bytes() == whole


def test_too_little_room(decode, read, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        OSError,
        match=r"^Toy: cannot use the cache .*/cache/toy-\w+ \(decoded, it takes 0.4 KiB, and 0.1 KiB are free\); name another folder with dataset.cache=DIR, or keep nothing with dataset.cache=false$",
    ):
        decode()
    assert not read.calls()
    assert not list(tmp_path.rglob("*.npy*"))


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_disk_that_fills_up(decode, read, monkeypatch, folder, call):
    monkeypatch.setattr(decoding, "_BLOCK", 4)
    real, left = getattr(os, call), [10 if call == "pwrite" else 0]

    def full(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(
        OSError, match=r"^Toy: cannot use the cache .*/cache/toy-\w+ \(No space left on device\); name another folder"
    ):
        decode()
    assert (folder() / "arrays.npy").exists() == (call == "pwrite")
    read.calls()
    monkeypatch.undo()
    check(decode()[0])
    assert read.calls().total() == (30 if call == "pwrite" else N)


def test_a_file_that_may_not_grow(decode, read):
    """The system itself refuses, in a process of its own."""
    import resource

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
        with pytest.raises(OSError, match=r"^Toy: cannot use the cache .* \(File too large\); name another folder"):
            decode()

    child = start(limited)
    child.join(60)
    assert child.exitcode == 0
    assert not read.calls(), "before anything is decoded"


def test_a_folder_that_cannot_be_written(decode, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError,
        match=r"^Toy: cannot use the cache .* \((Not a directory|File exists)\); name another folder with dataset.cache=DIR",
    ):
        decode(cache=str(tmp_path / "file"))


def test_where_caches_are(decode, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("PYROVAE_CACHE", "")
    for variable, value, place in (
        (None, None, tmp_path / "home" / ".cache" / "pyrovae"),
        ("XDG_CACHE_HOME", tmp_path / "xdg", tmp_path / "xdg" / "pyrovae"),
        ("PYROVAE_CACHE", tmp_path / "own", tmp_path / "own"),
    ):
        if variable:
            monkeypatch.setenv(variable, str(value))
        assert not place.exists()
        decode(cache=True)
        assert len(list(place.glob("toy-*/arrays.npy"))) == 1
    decode(cache="~/mine")
    assert len(list((tmp_path / "home" / "mine").iterdir())) == 1


@pytest.fixture
def broken(files):
    for i in (5, 17):
        files[i].write_text("no number")
    return files


def test_a_broken_item_is_an_error_and_what_was_decoded_stays(decode, broken, read, folder):
    with pytest.raises(
        DataError, match=r"^Toy: cannot read .*/sub/05; mend or remove it, or set dataset.on_bad: skip$"
    ):
        decode()
    assert np.load(folder() / "states.npy").tolist() == [1] * 5 + [0] * 35


@pytest.mark.parametrize("first", ["error", "skip"])
def test_broken_items_are_left_out_and_told_at_each_start(decode, broken, read, capsys, first):
    if first == "error":
        with pytest.raises(DataError):
            decode()
    for again in (False, True):
        read.calls()
        capsys.readouterr()
        rows, good = decode(on_bad="skip")
        assert good.tolist() == [i for i in range(N) if i not in (5, 17)]
        part = rows.subset(good[::2]).subset(torch.tensor([3, 9]))
        assert part.read(torch.tensor([1, 0]))[:, 0, 0, 0].tolist() == [3 * 20, 3 * 7]
        assert (read.calls().total() == 0) == again
        told = capsys.readouterr().err.splitlines()[-1]
        assert told == f"Toy: 2 of 40 files cannot be read and are left out: {broken[5]}, {broken[17]}"
    with pytest.raises(DataError, match="^Toy: cannot read .*/sub/05; mend or remove it, or set dataset.on_bad: skip$"):
        decode()
    read.calls()
    rows, good = decode(read=lambda _: np.zeros(SHAPE, np.uint8))  # a file server that was away, say
    assert torch.equal(good, EVERY)
    assert rows.read(torch.tensor([4, 5]))[:, 0, 0, 0].tolist() == [12, 0]


def test_nothing_but_broken_items(decode, files):
    for file in files:
        file.write_text("no number")
    with pytest.raises(DataError, match="Toy: none of 40 files can be read"):
        decode(on_bad="skip")
    with pytest.raises(DataError, match="Toy: none of 40 files"):
        decode(on_bad="skip", cache=False)


def test_a_file_that_is_gone_is_a_broken_one(decode, files, capsys):
    files[0].unlink()
    _, good = decode(on_bad="skip")
    assert len(good) == N - 1


def test_no_files(decode):
    for cache in (True, False):
        with pytest.raises(DataError, match="Toy: nothing to decode"):
            decode(items=[], cache=cache)


def test_an_array_of_another_shape_is_broken(decode):
    other = {"read": lambda _: np.zeros((1, 1, 3), np.uint8)}
    with pytest.raises(DataError, match=r"sub/00 gives \(1, 1, 3\) instead of \(1, 2, 3\)"):
        decode(**other)
    rows, _ = decode(**other, cache=False)
    with pytest.raises(DataError, match=r"sub/07 gives \(1, 1, 3\) instead of \(1, 2, 3\)"):
        rows.read(EVERY[7:])


def test_items_of_other_kinds_and_floats(decode):
    for items in (range(5), range(1, 6)):
        rows, _ = decode(items=items, read=lambda item: np.full(SHAPE, item + 0.5, np.float64), dtype="float32")
        assert rows.dtype == torch.float32
        assert rows.read(torch.tensor([4]))[0, 0, 0, 0] == items[4] + 0.5


def test_streamed_is_cached_bit_for_bit(decode, read):
    kept, streamed = decode()[0], decode(cache=False)[0]
    read.calls()
    numbers = torch.tensor([7, 3, 39, 3])
    assert torch.equal(kept.read(numbers), streamed.read(numbers))
    assert torch.equal(kept.subset(numbers).read(EVERY[:4]), streamed.subset(numbers).read(EVERY[:4]))
    assert read.calls() == Counter({"07": 2, "39": 2, "03": 4})


def test_streaming_over_broken_items(decode, broken, capsys):
    with pytest.raises(DataError, match="cannot read .*/05; mend or remove it, or set dataset.on_bad: skip"):
        decode(cache=False)[0].read(EVERY)
    rows, good = decode(cache=False, on_bad="skip")
    assert good.tolist() == [i for i in range(N) if i not in (5, 17)], "as with a cache"
    told = f"Toy: 2 of 40 files cannot be read and are left out: {broken[5]}, {broken[17]}\n"
    assert capsys.readouterr().err == told
    check(rows, good)
    with pytest.raises(DataError, match="cannot read .*/05"):
        rows.read(torch.tensor([5]))


def test_streaming_in_threads(decode):
    rows, _ = decode(cache=False)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(rows.read, [EVERY] * 8))
    assert all(torch.equal(read[0], other) for other in read[1:])


@pytest.mark.parametrize("cache", [True, False])
def test_batches_do_not_depend_on_threads(decode, cache, tmp_path):
    rows, good = decode(cache=str(tmp_path / "cache") if cache else False)
    parts = good[:30], good[30:35], good[35:]
    seen = []
    for num_workers in (0, 2):
        data = Dataset.parted("toy", "toy", rows, parts, binarize="dynamic", num_workers=num_workers)
        seen.append(torch.cat([*data.batches("train", 7), *data.batches("val", 2)]))
    assert torch.equal(*seen)


def test_few_arrays_wait_to_be_written(monkeypatch, files, read):
    monkeypatch.setattr(decoding, "_AHEAD", 2)
    items = Items("Toy", files, read, SHAPE, {})
    some = items.decoded(range(N), 2)
    for i in range(10):
        assert next(some)[1] == i
    time.sleep(0.05)
    assert read.calls().total() <= 10 + 2 * 2

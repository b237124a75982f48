"""What the benchmarks of speed share."""

import argparse
import json
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any

import pyro
import torch

import pyrovae as pv

TURN = 0.1


def parser(text: str | None) -> argparse.ArgumentParser:
    """For a benchmark of one thread, described by `text`, in which an eager fallback is an error."""
    torch.set_num_threads(1)
    warnings.simplefilter("error", pv.capture.CaptureWarning)  # it would be timed as compiled
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, help="write the numbers there")
    return made


def save(path: Path | None, rows: Any, **more: Any) -> None:
    """Writes what was measured, and where."""
    if path is not None:
        machine = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
        about = {"machine": machine, "threads": 1, "torch": torch.__version__, "pyro": pyro.__version__, **more}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


def clock() -> float:
    """Seconds of the processor, of all threads of this process; where there is a GPU, by the clock, its work done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return perf_counter()
    sleep(0.01)  # a thread that runs is charged at the next tick, one that rests at once
    return process_time()


def spent() -> float:
    """Seconds of the processor so far, of this process and of those it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def best(contestants: Mapping[str, Callable[[], Any]], seconds: float, least: int = 2) -> dict[str, float]:
    """Milliseconds of each by `clock`: the best of at least so many rounds in which all take turns.

    A turn is as many calls as fill `TURN` seconds, for short times cannot be told from the tick of the clock.
    """
    result, calls = dict.fromkeys(contestants, float("inf")), dict.fromkeys(contestants, 1)
    for name, run in contestants.items():
        start = perf_counter()
        run()
        calls[name] = max(1, round(TURN / (perf_counter() - start)))
    until, rounds = perf_counter() + seconds, 0
    while rounds < least or perf_counter() < until:
        for name, run in contestants.items():
            start = clock()
            for _ in range(calls[name]):
                run()
            result[name] = min(result[name], (clock() - start) * 1e3 / calls[name])
        rounds += 1
    return result


class TimedData:
    """A data set that reports the seconds by `clock` of each training epoch, to validation's first batch."""

    def __init__(self, data: pv.data.Dataset, report: Callable[[float], None]) -> None:
        self.data, self.report, self.x_shape = data, report, data.x_shape
        self.start: float | None = None

    def batches(self, split: Any, batch_size: int, **options: Any) -> Any:
        batches = self.data.batches(split, batch_size, **options)
        # Only what training itself reads: `fit` looks at a batch before.
        return _Announced(batches, self, split) if "rank" in options else batches


class _Announced:
    def __init__(self, batches: Any, timed: TimedData, split: str) -> None:
        self.batches, self.timed, self.split = batches, timed, split

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        timed = self.timed
        if self.split == "train":
            timed.start = clock()
        elif self.split == "val" and timed.start is not None:
            timed.report(clock() - timed.start)
            timed.start = None
        yield from self.batches

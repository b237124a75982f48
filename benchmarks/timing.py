"""What the benchmarks of speed share."""

import argparse
import json
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import pyro
import torch

import pyrovae as pv


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


def best(contestants: Mapping[str, Callable[[], Any]], seconds: float, least: int = 2) -> dict[str, float]:
    """Milliseconds of each: the best of at least so many rounds in which all take turns."""
    result = dict.fromkeys(contestants, float("inf"))
    until, rounds = perf_counter() + seconds, 0
    while rounds < least or perf_counter() < until:
        for name, run in contestants.items():
            _wait()
            start = perf_counter()
            run()
            _wait()
            result[name] = min(result[name], (perf_counter() - start) * 1e3)
        rounds += 1
    return result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class TimedData:
    """A data set that reports the seconds of each training epoch, from its first batch to validation's first."""

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
            timed.start = perf_counter()
        elif self.split == "val" and timed.start is not None:
            timed.report(perf_counter() - timed.start)
            timed.start = None
        yield from self.batches

"""Seconds of training epochs, as a data set sees them."""

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import pyrovae as pv


class TimedData:
    """A data set that tells, after each training epoch, the seconds of that epoch.

    From the moment its first batch is asked for to the moment validation asks for its first.

    Args:
        data: What to train on.
        report: Called with the seconds.
    """

    def __init__(self, data: pv.data.Dataset, report: Callable[[float], None]) -> None:
        self.data, self.report = data, report
        self.x_shape = data.x_shape
        self.start: float | None = None

    def batches(self, split: Any, batch_size: int, **options: Any) -> Any:
        batches = self.data.batches(split, batch_size, **options)
        announce = {"train": self._begin, "val": self._end, "test": lambda: None}[split]
        # Only what training itself reads: `fit` looks at a batch before.
        return _Announced(batches, announce) if "rank" in options else batches

    def _begin(self) -> None:
        self.start = perf_counter()

    def _end(self) -> None:
        if self.start is not None:
            seconds, self.start = perf_counter() - self.start, None
            self.report(seconds)


class _Announced:
    def __init__(self, batches: Any, announce: Callable[[], None]) -> None:
        self.batches, self.announce = batches, announce

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        self.announce()
        yield from self.batches

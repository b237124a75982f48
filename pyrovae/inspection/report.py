"""What there is to know of a data set."""

import math
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data import SPLITS, Batches, Dataset, Rows, Split

_DATAPOINTS, _VALUES = 2048, 2**23  # looked at, of a split, at most; a batch at least


@dataclass(frozen=True, eq=False)
class SplitReport:
    """One split.

    Attributes:
        rows: The raw datapoints.
        x: Some of them as the model sees them, (M, *x_shape): of training the first batches of an epoch, augmented; of
            validation and test datapoints at even distances.
        class_counts: (num_classes,), or None without labels.
        num_unlabelled: Datapoints whose class number is negative.
    """

    rows: Rows
    x: Tensor
    class_counts: Tensor | None
    num_unlabelled: int

    @property
    def num_bytes(self) -> int:
        """Of the raw values."""
        return math.prod(self.rows.shape) * self.rows.dtype.itemsize


@dataclass(frozen=True, eq=False)
class DataReport:
    """A data set.

    Attributes:
        data: Itself.
        splits: By name.
        batch_size: Datapoints a batch.
        num_batches: Of an epoch of training.
        num_timed: Batches that were timed.
        per_second: Datapoints a second that training batches come with.
    """

    data: Dataset
    splits: dict[Split, SplitReport]
    batch_size: int
    num_batches: int
    num_timed: int
    per_second: float


def inspected(data: Dataset, *, batch_size: int = 128, seed: int = 0, progress: bool = False) -> DataReport:
    """Reads some batches.

    Args:
        data: Any.
        batch_size: Datapoints a batch.
        seed: Of the order and the draws of training.
        progress: Show a bar.
    """
    limit = max(1, min(_DATAPOINTS, _VALUES // math.prod(data.x_shape)))
    wanted = {split: min(limit, len(data.rows(split))) for split in SPLITS}
    shown = None if progress else True
    with tqdm(total=sum(wanted.values()), desc="looking at data", unit="datapoint", disable=shown) as bar:
        loader = data.batches("train", batch_size, seed=seed)
        batches, seconds = _timed(loader, wanted["train"], bar)
        samples = {"train": torch.cat(batches)}
        for split in SPLITS[1:]:
            samples[split] = _spread(data, split, wanted[split], batch_size, bar)
    first = min(1, len(batches) - 1)  # the first batch of several also shuffles and warms up
    per_second = sum(map(len, batches[first:])) / sum(seconds[first:])
    splits = {split: _split(data, split, samples[split]) for split in SPLITS}
    return DataReport(data, splits, batch_size, len(loader), len(batches) - first, per_second)


def _timed(loader: Batches, num: int, bar: tqdm) -> tuple[list[Tensor], list[float]]:
    """The first batches, of `num` datapoints together or a few more, and the seconds that each took."""
    batches, seconds, seen = list[Tensor](), list[float](), 0
    start = perf_counter()
    for x in loader:
        seconds.append(perf_counter() - start)
        batches.append(x)
        bar.update(min(len(x), num - seen))
        seen += len(x)
        if seen >= num:
            break
        start = perf_counter()
    return batches, seconds


def _spread(data: Dataset, split: Split, num: int, batch_size: int, bar: tqdm) -> Tensor:
    """`num` datapoints of a split at even distances, for it may be sorted: x (num, *x_shape)."""
    rows = data.rows(split)
    batches = []
    for numbers in (torch.arange(num, device=rows.device) * len(rows) // num).split(batch_size):
        batches.append(data.finish(split, rows.read(numbers), numbers))
        bar.update(len(numbers))
    return torch.cat(batches)


def _split(data: Dataset, split: Split, x: Tensor) -> SplitReport:
    labels = data.labels.get(split)
    if labels is None:
        return SplitReport(data.rows(split), x, None, 0)
    num_classes = max(len(data.class_names), *(int(of.max()) + 1 for of in data.labels.values()))
    counts = labels[labels >= 0].long().bincount(minlength=num_classes)
    return SplitReport(data.rows(split), x, counts if num_classes else None, int((labels < 0).sum()))

"""Three splits of one data set, and batches of them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import draws, normalization, outside
from .augmentation import Augmentation
from .errors import DataError
from .normalization import as_floats
from .rows import Column, Held, Rows, in_order

Binarize = Literal["dynamic", "static", "none"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

_STATIC, _DYNAMIC, _AUGMENT, _ORDER = range(4)  # streams of draws
_SKETCHED = 16  # datapoints of each split


def remembered(make: Callable[..., "Dataset"]) -> Any:
    """Lets a function's data sets, not what `replace` makes of them, keep it and its arguments: a run writes them."""

    @wraps(make)
    def call(**arguments: Any) -> "Dataset":
        data = make(**arguments)
        object.__setattr__(data, "made_by", (call, arguments))
        return data

    return call


@dataclass(frozen=True, repr=False)
class Dataset:
    """Three disjoint splits of one data set: raw datapoints, and how they become x.

    Attributes:
        name, source: Of the data set; and what was really read, for people and for `summary.json`.
        train, val, test: Raw datapoints (N, *x_shape): a tensor or NumPy array, or `Rows` that lie elsewhere.
        binarize, seed: `dynamic` draws x ~ Bernoulli(grey) anew in each epoch, `static` once, by `seed`; validation and
            test are drawn once for both. `none` leaves x as it is.
        labels, class_names: Class numbers (N,) of each split that has any; what they mean.
        preprocess: From raw datapoints to x, float32, both (B, *x_shape); by default pixels of 8 bits go to [0, 1].
        augment: Changes raw training batches, called with them, a key of draws and the datapoints' numbers.
        num_workers: Threads that read batches ahead, of splits that do not lie in memory.
        groups: Number (N,) of what each datapoint of a split is a piece of, the photograph of a patch say.
        covariates: What else is known of the datapoints of each split: arrays (N, ...) by name, of numbers or text.
        rows_in_file: Number (N,) of each datapoint of a split before it was parted; by default 0 ... N - 1.

    Raises:
        DataError: An empty split, splits of unlike shape, labels that do not fit, or vectors to augment.

    >>> Dataset("coins", "tossed here", *torch.zeros(3, 10, 6))
    Dataset(tossed here: 10 train, 10 val, 10 test, (6,), binarize='none')
    """

    name: str
    source: str
    train: Tensor | Rows
    val: Tensor | Rows
    test: Tensor | Rows
    binarize: Binarize = "none"
    seed: int = 0
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    preprocess: Callable[[Tensor], Tensor] = as_floats
    augment: Callable[[Tensor, int, Tensor], Tensor] | None = None
    num_workers: int = 0
    groups: Mapping[str, Tensor] = field(default_factory=dict)
    covariates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rows_in_file: Mapping[str, Tensor] = field(default_factory=dict)
    passed: set[Any] = field(default_factory=set, init=False, compare=False)  # what `outside` found all to be within

    @classmethod
    def parted(
        cls, name: str, source: str, raw: Tensor | Rows, parts: Sequence[Tensor],
        labels: Tensor | None = None, covariates: Mapping[str, Any] | None = None, **options: Any,
    ) -> "Dataset":  # fmt: skip
        """One collection `raw` of N datapoints, with labels (N,) and covariates (N, ...); `options`: other attributes.

        `parts` are the numbers of those that train, validate and test.
        """
        train, val, test = (raw[part] if isinstance(raw, Tensor) else raw.subset(part) for part in parts)
        own: dict[str, Tensor] = dict(zip(SPLITS, parts, strict=True))
        if labels is not None:
            options["labels"] = {split: labels[part] for split, part in own.items()}
        known = (covariates or {}).items()
        options["covariates"] = {split: {key: Column(a, part) for key, a in known} for split, part in own.items()}
        return cls(name, source, train, val, test, rows_in_file=own, **options)

    def __post_init__(self) -> None:
        for split in SPLITS:
            raw = getattr(self, split)
            if isinstance(raw, np.ndarray):
                object.__setattr__(self, split, raw := torch.as_tensor(raw))
            if not isinstance(raw, Tensor | Rows):
                raise DataError(f"{self.name}: {split} is {type(raw).__name__}; give a tensor or a NumPy array")
            shape = tuple(raw.shape)
            if len(shape) < 2:
                raise DataError(f"{self.name}: {split} must be (N, *x_shape), got {shape}")
            if shape[1:] != self.x_shape:
                raise DataError(f"{self.name}: a datapoint of {split} has shape {shape[1:]}, of train {self.x_shape}")
            if len(raw) == 0:
                raise DataError(f"{self.name}: the {split} split is empty; use more datapoints or smaller hold-outs")
            numbers = {"labels": self.labels, "groups": self.groups if isinstance(self.groups, dict) else {}}
            known = self.covariates.get(split, {})  # groups that are no dict are found when they are asked for
            for key, array in [*((key, of[split]) for key, of in numbers.items() if split in of), *known.items()]:
                if tuple(array.shape[: None if key in numbers else 1]) != (len(raw),):
                    raise DataError(f"{self.name}: {split} has {len(raw)} datapoints and {key} {tuple(array.shape)}")
        if isinstance(self.augment, Augmentation):
            self.augment.check(self.name, self.x_shape)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, split))} {split}" for split in SPLITS)
        return f"Dataset({self.source}: {sizes}, {self.x_shape}, binarize={self.binarize!r})"

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Of a datapoint: (C, H, W) of an image, (D,) of a vector."""
        return tuple(self.train.shape[1:])

    def rows(self, split: Split) -> Rows:
        """The raw datapoints of a split."""
        raw = getattr(self, split)
        return Held(raw) if isinstance(raw, Tensor) else raw

    def origin(self, split: Split) -> Tensor:
        """Number of each datapoint of a split in the user's file, or in the data set before it was parted, (N,)."""
        known, num = self.rows_in_file.get(split), len(getattr(self, split))
        return known.cpu() if known is not None and len(known) == num else torch.arange(num)

    def batches(self, split: Split, batch_size: int, **options: Any) -> "Batches":
        """Batches of x of one split; `train` is shuffled, augmented and drawn anew. `options` go to `Batches`."""
        return Batches(self, split, batch_size, train=split == "train", **options)

    def in_order(self, split: Split, batch_size: int, **options: Any) -> "Batches":
        """Batches of x in the order of `split`, never augmented, each x drawn once, whatever the size of batches."""
        return Batches(self, split, batch_size, **options)

    def take(self, split: Split, num: int | None = None, *, start: int = 0) -> tuple[Tensor, Tensor | None]:
        """x (num, *x_shape) from the `start`-th of `in_order` on, and labels (num,) if there are any."""
        rows = self.rows(split)
        stop = len(rows) if num is None else min(start + num, len(rows))
        numbers, labels = torch.arange(start, stop, device=rows.device), self.labels.get(split)
        return self.finish(split, rows.read(numbers), numbers), None if labels is None else labels[start:stop]

    def sketch(self) -> list[float]:
        """Means of a few raw datapoints of each split, at even distances: other data, or another split, have others."""
        means = list[float]()
        for rows in map(self.rows, SPLITS):
            numbers = torch.linspace(0, len(rows) - 1, _SKETCHED, device=rows.device).long()
            means += rows.read(numbers).double().flatten(1).mean(1).tolist()
        return means

    average, inverted, normalized = normalization.average, normalization.inverted, normalization.normalized
    outside = outside.outside

    def finish(self, split: Split, raw: Tensor, numbers: Tensor, epoch: int | None = None, seed: int = 0) -> Tensor:
        """x from raw datapoints (B, *x_shape) numbered `numbers` (B,) in the split, as `rows` gives them.

        Drawn once, as for evaluation; in an `epoch` of training augmented, and drawn anew by `seed`.
        """
        where = SPLITS.index(split)
        if epoch is not None and self.augment is not None:
            raw = self.augment(raw, draws.key(seed, _AUGMENT, where, epoch), numbers)
        if self.binarize == "none":
            return self.preprocess(raw)
        epoch = None if self.binarize == "static" else epoch
        key = draws.key(self.seed, _STATIC, where) if epoch is None else draws.key(seed, _DYNAMIC, where, epoch)
        pixels = raw.dtype == torch.uint8 and self.preprocess is as_floats
        return draws.binary(key, numbers, raw if pixels else self.preprocess(raw))


class Numbered(NamedTuple):
    """A batch x (B, *x_shape), and the numbers `rows` (B,) of its datapoints in their split.

    >>> Numbered(torch.zeros(2, 3), torch.tensor([7, 1])).rows.tolist()
    [7, 1]
    """

    x: Tensor
    rows: Tensor


class Batches:
    """Iterates over batches x (B, *x_shape), float32.

    Which datapoints a batch holds is a function of (seed, epoch, index, rank) alone, and x of (seed, epoch, datapoint).
    A split in memory lives on `device`; any other is read batch by batch, ahead of time if the data set has workers.

    Args:
        data, split: The data set, and which of its splits.
        batch_size: Datapoints a batch and rank; the last batch may be smaller.
        train: Permute, augment and draw anew in each epoch.
        seed, device: Of the order and of the draws; where batches are made.
        rank, world_size: This process's share: every `world_size`-th datapoint of a batch of all ranks. Training leaves
            out up to `world_size` - 1 datapoints of an epoch, so that ranks take equally many steps.
        numbered: Give `Numbered` batches.
        position: Gives (epoch, first batch) when iteration starts; by default each iteration is the next epoch.

    Raises:
        DataError: No datapoint for each rank.

    >>> [len(x) for x in Batches(Dataset("tens", "made", *torch.ones(3, 10, 4)), "train", 4, train=True)]
    [4, 4, 2]
    """

    def __init__(
        self, data: "Dataset", split: Split, batch_size: int,
        *, train: bool = False, seed: int = 0, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1,
        numbered: bool = False, position: Callable[[], tuple[int, int]] | None = None,
    ) -> None:  # fmt: skip
        if batch_size < 1:
            raise DataError(f"batch_size must be >= 1, got {batch_size}")
        self.data, self.split, self.rows = data, split, data.rows(split)
        if isinstance(self.rows, Held):
            self.rows = Held(self.rows.values.to(device))
        self.batch_size, self.train, self.seed, self.numbered = batch_size, train, seed, numbered
        self.device, self.rank, self.world_size = torch.device(device), rank, world_size
        self.num_images = len(self.rows) - (len(self.rows) % world_size if train else 0)
        if self.num_images == 0:
            raise DataError(f"{len(self.rows)} datapoints are too few for {world_size} processes")
        self._position, self._next_epoch = position, 0

    def __len__(self) -> int:
        return math.ceil(self.num_images / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[Any]:
        # A generator's body starts at the first `next`, by when a resumed trainer knows where it is.
        epoch, first = (self._next_epoch, 0) if self._position is None else self._position()
        self._next_epoch += 1
        for raw, numbers in self._raw(epoch, first):
            where = numbers.to(self.device)
            x = self.data.finish(self.split, raw.to(self.device), where, epoch if self.train else None, self.seed)
            yield Numbered(x, where) if self.numbered else x

    def _raw(self, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Raw batches and their numbers, in order."""
        order, span = torch.arange(len(self.rows)), self.batch_size * self.world_size
        if self.train:
            generator = torch.Generator().manual_seed(draws.key(self.seed, _ORDER, epoch))
            order = torch.randperm(len(self.rows), generator=generator)
        order, starts = order.to(self.rows.device), range(first * span, self.num_images, span)
        shares = (order[i + self.rank : min(i + span, self.num_images) : self.world_size] for i in starts)
        read, threads = partial(self.rows.read, epoch=epoch if self.train else 0), self.data.num_workers
        if isinstance(self.rows, Held) or threads == 0:
            return ((read(numbers), numbers) for numbers in shares)
        return in_order(read, shares, threads, threads)

    # Lightning asks a loader that can resume in mid-epoch for its state. Position comes from the trainer; what must not
    # have changed is everything else that an order depends on.
    def state_dict(self) -> dict[str, int]:
        return {key: getattr(self, key) for key in ("seed", "num_images", "batch_size", "world_size")}

    def load_state_dict(self, state: dict[str, int]) -> None:
        for key, here in self.state_dict().items():
            if state[key] != here:
                raise DataError(f"resume: {key} was {state[key]} in the checkpoint and is {here} now; set it back")

"""Three splits of one data set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from . import draws
from .augmentation import Augmentation
from .batches import Batches
from .errors import DataError
from .normalization import Normalization, normalized
from .outside import Outside, outside
from .rows import Column, Held, Rows
from .scaling import as_floats

Binarize = Literal["dynamic", "static", "none"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

_STATIC, _DYNAMIC, _AUGMENT = 0, 1, 2  # streams of draws
_SKETCHED = 16  # datapoints of each split


def remembered(make: Callable[..., "Dataset"]) -> Any:
    """Lets a function's data sets, but none made of them by `replace`, keep it and its arguments: a run writes them."""

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
        name: Of the data set.
        source: What was really read, for people and for `summary.json`.
        train, val, test: Raw datapoints (N, *x_shape): a tensor or NumPy array, or `Rows` that lie elsewhere.
        binarize: `dynamic` draws x ~ Bernoulli(grey) anew in each epoch, `static` once; validation and test
            are drawn once for both. `none` leaves x as it is.
        seed: Of the draws that are made once.
        labels: Class numbers (N,) of the datapoints of each split, where there are any.
        class_names: What the numbers mean.
        preprocess: From raw datapoints (B, *x_shape) to x (B, *x_shape), float32; by default pixels of 8 bits go to
            [0, 1] and all else stays as it is.
        augment: Changes raw training batches, `Augmentation` say: called with them, a key of draws and the
            datapoints' numbers.
        num_workers: Threads that read batches ahead, of splits that do not lie in memory.
        groups: Number (N,) of what each datapoint of a split is a piece of, the photograph of a patch say.
        covariates: What else is known of the datapoints of each split: arrays (N, ...) by name, of numbers or text.
        rows_in_file: Number (N,) of each datapoint of a split before they were parted; see `origin`.

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
    _passed: set[Any] = field(default_factory=set, init=False, compare=False)  # what `outside` found all to be within

    @classmethod
    def parted(
        cls, name: str, source: str, raw: Tensor | Rows, parts: Sequence[Tensor],
        labels: Tensor | None = None, covariates: Mapping[str, Any] | None = None, **options: Any,
    ) -> "Dataset":  # fmt: skip
        """One collection of datapoints, parted.

        Args:
            name, source: As above.
            raw: All of them.
            parts: Numbers of those that train, validate and test.
            labels: Class number of each, (N,).
            covariates: Arrays (N, ...) by name.
            options: Further attributes.
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
                raw = torch.as_tensor(raw)
                object.__setattr__(self, split, raw)
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
        rows, known = self.rows(split), self.rows_in_file.get(split)
        if known is not None and len(known) == len(rows):
            return known
        return rows.origin(torch.arange(len(rows), device=rows.device)).cpu()

    def batches(self, split: Split, batch_size: int, **options: Any) -> Batches:
        """Batches of x of one split; `train` is shuffled, augmented and drawn anew. `options` go to `Batches`."""
        return Batches(self, split, batch_size, train=split == "train", **options)

    def in_order(self, split: Split, batch_size: int, **options: Any) -> Batches:
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
        means = []
        for split in SPLITS:
            rows = self.rows(split)
            numbers = torch.linspace(0, len(rows) - 1, _SKETCHED, device=rows.device).long()
            means.append(rows.read(numbers).double().flatten(1).mean(1).cpu())
        return torch.cat(means).tolist()

    def normalized(self, normalization: Normalization) -> "Dataset":
        """The same data set with x normalized, `ZCA()` say, by what is fitted to its training split alone.

        Raises a `DataError` of binary data, or data that the normalization is not for.
        """
        return normalized(self, normalization)

    def finish(self, split: Split, raw: Tensor, numbers: Tensor, epoch: int | None = None, seed: int = 0) -> Tensor:
        """x from raw datapoints (B, *x_shape) numbered `numbers` (B,) in the split, as `rows` gives them.

        Drawn once, as for evaluation; in an `epoch` of training augmented, and drawn anew by `seed`.
        """
        where = SPLITS.index(split)
        if epoch is not None and self.augment is not None:
            raw = self.augment(raw, draws.key(seed, _AUGMENT, where, epoch), numbers)
        if self.binarize == "none":
            return self.preprocess(raw)
        if epoch is not None and self.binarize == "dynamic":
            key = draws.key(seed, _DYNAMIC, where, epoch)
        else:
            key = draws.key(self.seed, _STATIC, where)
        pixels = raw.dtype == torch.uint8 and self.preprocess is as_floats
        return draws.binary(key, numbers, raw if pixels else self.preprocess(raw))

    def outside(self, allowed: Callable[[Tensor], Tensor]) -> Outside | None:
        """What x, or the values that it is drawn from, has outside a support; None if nothing.

        Looks at all values of all splits, once, as long as they are in a file or in memory; at a few datapoints where
        each would have to be decoded or drawn. `allowed` tells which entries are inside, as the likelihood has it.
        """
        if allowed in self._passed:
            return None
        splits = {str(split): (self.rows(split), self.origin(split)) for split in SPLITS}
        found = outside(self.name, splits, self.preprocess, allowed, drawn_from=self.binarize != "none")
        if found is None:
            self._passed.add(allowed)
        return found

"""Images held as one uint8 tensor, indexed by batch."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Binarize = Literal["dynamic", "static", "none"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class DataError(Exception):
    """Data that is missing, damaged, or not what the model can score."""


def _generator(seed: int, *key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that is a function of (seed, key) alone; SeedSequence makes neighbouring keys unrelated."""
    value = int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(value)


_STATIC, _ORDER, _DYNAMIC = range(3)  # streams of draws


@dataclass(frozen=True, repr=False)
class ImageData:
    """Three disjoint splits of one data set.

    Attributes:
        name: Of the data set.
        source: What was really read, for people and for `summary.json`.
        train, val, test: uint8 images (N, C, H, W).
        binarize: `dynamic` draws x ~ Bernoulli(grey) anew for each batch, `static` once; validation and test
            are drawn once for both. `none` gives grey values in [0, 1].
        seed: Of the static draws.
        labels: Class numbers (N,) of the images of each split, where there are any.
        class_names: What the numbers mean.
    """

    name: str
    source: str
    train: Tensor
    val: Tensor
    test: Tensor
    binarize: Binarize = "none"
    seed: int = 0
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split in SPLITS:
            images = getattr(self, split)
            if not isinstance(images, Tensor):
                raise DataError(f"{self.name}: {split} is {type(images).__name__}; use torch.from_numpy(...)")
            if images.dtype != torch.uint8 or images.dim() != 4:
                raise DataError(
                    f"{self.name}: {split} must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}"
                )
            if len(images) == 0:
                raise DataError(f"{self.name}: the {split} split is empty; use more images or smaller hold-outs")
            labels = self.labels.get(split)
            if labels is not None and labels.shape != (len(images),):
                raise DataError(f"{self.name}: {split} has {len(images)} images and labels {tuple(labels.shape)}")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, split))} {split}" for split in SPLITS)
        return f"ImageData({self.source}: {sizes}, {self.x_shape}, binarize={self.binarize!r})"

    @property
    def x_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.train.shape[1:])

    def batches(self, split: Split, batch_size: int, **options: Any) -> "Batches":
        """Batches of float images of one split; only `train` is shuffled. `options` go to `Batches`."""
        train = split == "train"
        dynamic = train and self.binarize == "dynamic"
        images = getattr(self, split) if dynamic else self.drawn(split)
        return Batches(images, batch_size, shuffle=train, dynamic=dynamic, **options)

    def in_order(self, split: Split, batch_size: int, **options: Any) -> "Batches":
        """Batches of float images in the order of `split`, each drawn once, whatever the size of batches."""
        return Batches(self.drawn(split), batch_size, **options)

    def take(self, split: Split, num: int | None = None) -> tuple[Tensor, Tensor | None]:
        """The first `num` images of `in_order`, as floats (N, C, H, W), and their labels (N,) if there are any."""
        labels = self.labels.get(split)
        return self.drawn(split)[:num].float().div_(255), None if labels is None else labels[:num]

    def drawn(self, split: Split) -> Tensor:
        """uint8 images (N, C, H, W) of one split; unless `binarize` is `none`, black or white, drawn from `seed`."""
        if self.binarize == "none":
            return getattr(self, split)
        return _binarize_once(getattr(self, split), _generator(self.seed, _STATIC, SPLITS.index(split)))


def _binarize_once(images: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.empty_like(images)
    for here, grey in zip(drawn.split(4096), images.split(4096), strict=True):  # floats are four times the bytes
        here.copy_(torch.rand(grey.shape, generator=generator) < grey.float() / 255)
    return drawn.mul_(255)


def check_holdouts(name: str, num_images: int, **holdouts: int) -> None:
    """Raises `DataError` unless the hold-outs leave something to train on."""
    for key, value in holdouts.items():
        if value < 1:
            raise DataError(f"{name}: {key} must be >= 1, got {value}")
    if sum(holdouts.values()) >= num_images:
        text = " + ".join(f"{key} {value}" for key, value in holdouts.items())
        raise DataError(f"{name}: {text} leaves nothing of {num_images} images to train on; lower them")


class Numbered(NamedTuple):
    """A batch whose images are numbered."""

    x: Tensor  # (B, C, H, W)
    rows: Tensor  # (B,) the number of each image in its split


class Batches:
    """Iterates over float images (B, C, H, W) in [0, 1]; each batch is a function of (seed, epoch, index, rank) alone.

    Args:
        images: uint8 (N, C, H, W).
        batch_size: Images a batch and rank; the last batch may be smaller.
        shuffle: Permute anew each epoch.
        dynamic: Draw binary images from the grey ones at each batch.
        seed: Of the order and of the draws.
        device: Where images are kept and batches are made.
        rank, world_size: This process's share: every `world_size`-th image of a batch of all ranks. In training up to
            `world_size` - 1 images of an epoch are left out, so that ranks take equally many steps.
        numbered: Give `Numbered` batches.
        position: Gives (epoch, first batch) when iteration starts; by default each iteration is the next epoch.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        dynamic: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
        numbered: bool = False,
        position: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size must be >= 1, got {batch_size}")
        self.images = images.to(device)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.dynamic = dynamic
        self.seed = seed
        self.rank, self.world_size = rank, world_size
        self.num_images = len(images) - (len(images) % world_size if shuffle else 0)
        if self.num_images == 0:
            raise DataError(f"{len(images)} images are too few for {world_size} processes")
        self.numbered = numbered
        self._position = position
        self._next_epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.num_images / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[Any]:
        # A generator's body starts at the first `next`, by when a resumed trainer knows where it is.
        if self._position is not None:
            epoch, first = self._position()
        else:
            epoch, first = self._next_epoch, 0
            self._next_epoch += 1
        order = self._order(epoch)
        for index in range(first, len(self)):
            yield self._batch(order, epoch, index)

    def _order(self, epoch: int) -> Tensor | None:
        if not self.shuffle:
            return None
        order = torch.randperm(len(self.images), generator=_generator(self.seed, _ORDER, epoch))
        return order.to(self.images.device)

    def _batch(self, order: Tensor | None, epoch: int, index: int) -> Any:
        span = self.batch_size * self.world_size
        rows = slice(index * span + self.rank, min((index + 1) * span, self.num_images), self.world_size)
        numbers = torch.arange(rows.start, rows.stop, rows.step) if order is None else order[rows]
        x = self.images[rows if order is None else numbers].float().div_(255)
        if self.dynamic:
            generator = _generator(self.seed, _DYNAMIC, epoch, index, self.rank, device=x.device)
            x = (torch.rand(x.shape, generator=generator, device=x.device) < x).float()
        return Numbered(x, numbers) if self.numbered else x

    # Lightning asks a loader that can resume in mid-epoch for its state. Position comes from the trainer; what must not
    # have changed is everything else that an order depends on.
    def state_dict(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "num_images": self.num_images,
            "batch_size": self.batch_size,
            "world_size": self.world_size,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        for key, here in self.state_dict().items():
            if state[key] != here:
                raise DataError(f"resume: {key} was {state[key]} in the checkpoint and is {here} now; set it back")

"""Batches of a split."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import draws
from .errors import DataError
from .rows import Held

if TYPE_CHECKING:
    from .dataset import Dataset, Split

_ORDER = 3  # a stream of draws; those of a data set are 0 to 2


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
        seed: Of the order and of the draws.
        device: Where batches are made.
        rank, world_size: This process's share: every `world_size`-th datapoint of a batch of all ranks. In training up
            to `world_size` - 1 datapoints of an epoch are left out, so that ranks take equally many steps.
        numbered: Give `Numbered` batches.
        position: Gives (epoch, first batch) when iteration starts; by default each iteration is the next epoch.

    Raises:
        DataError: No datapoint for each rank.

    >>> from pyrovae.data import Dataset
    >>> [len(x) for x in Batches(Dataset("tens", "made", *torch.ones(3, 10, 4)), "train", 4, train=True)]
    [4, 4, 2]
    """

    def __init__(
        self,
        data: "Dataset", split: "Split", batch_size: int,
        *, train: bool = False, seed: int = 0, device: torch.device | str = "cpu", rank: int = 0, world_size: int = 1,
        numbered: bool = False, position: Callable[[], tuple[int, int]] | None = None,
    ) -> None:  # fmt: skip
        if batch_size < 1:
            raise DataError(f"batch_size must be >= 1, got {batch_size}")
        self.data, self.split = data, split
        self.rows = data.rows(split)
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
        order = self._order(epoch)
        for raw, numbers in self._raw(order, epoch, first):
            where = numbers.to(self.device)
            x = self.data.finish(self.split, raw.to(self.device), where, epoch if self.train else None, self.seed)
            yield Numbered(x, where) if self.numbered else x

    def _order(self, epoch: int) -> Tensor:
        if not self.train:
            return torch.arange(len(self.rows), device=self.rows.device)
        generator = torch.Generator().manual_seed(draws.key(self.seed, _ORDER, epoch))
        return torch.randperm(len(self.rows), generator=generator).to(self.rows.device)

    def _raw(self, order: Tensor, epoch: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Raw batches and their numbers, in order."""
        epoch = epoch if self.train else 0
        shares = (self._share(order, index) for index in range(first, len(self)))
        if isinstance(self.rows, Held) or self.data.num_workers == 0:
            yield from ((self.rows.read(numbers, epoch), numbers) for numbers in shares)
            return
        pool = ThreadPoolExecutor(self.data.num_workers, thread_name_prefix="batches")
        ahead: deque[Any] = deque()
        try:
            for numbers in shares:
                ahead.append((pool.submit(self.rows.read, numbers, epoch), numbers))
                if len(ahead) > self.data.num_workers:
                    reading, first_of = ahead.popleft()
                    yield reading.result(), first_of
            for reading, rest_of in ahead:
                yield reading.result(), rest_of
        finally:
            pool.shutdown(cancel_futures=True)

    def _share(self, order: Tensor, index: int) -> Tensor:
        span = self.batch_size * self.world_size
        return order[index * span + self.rank : min((index + 1) * span, self.num_images) : self.world_size]

    # Lightning asks a loader that can resume in mid-epoch for its state. Position comes from the trainer; what must not
    # have changed is everything else that an order depends on.
    def state_dict(self) -> dict[str, int]:
        return {key: getattr(self, key) for key in ("seed", "num_images", "batch_size", "world_size")}

    def load_state_dict(self, state: dict[str, int]) -> None:
        for key, here in self.state_dict().items():
            if state[key] != here:
                raise DataError(f"resume: {key} was {state[key]} in the checkpoint and is {here} now; set it back")

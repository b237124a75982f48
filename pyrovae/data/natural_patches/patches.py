"""Patches cut out of images."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...data import draws
from ..errors import DataError
from ..rows import Held, Mapped, Rows

_CANDIDATES = 8  # places that a patch may be cut from, if its variance counts


class Patches(Rows):
    """Square patches of images, each cut at random: any of the images, any place that lies wholly inside, all alike.

    Where a patch is cut is a function of (key, epoch, number). If its variance is too small, it is cut elsewhere: the
    first of 8 places that has enough, or else the one that has most.

    Args:
        images: Rows (N, C, H, W).
        numbers: Of those images that patches are cut from, (M,).
        num: Patches, in an epoch.
        size: Height and width of a patch in pixels.
        key: Of the draws.
        anew: Cut other patches in each epoch; else those of epoch 0.
        min_variance: Least variance over a patch's entries, of x.
        preprocess: From raw patches to x.

    Raises:
        DataError: Patches larger than images.
    """

    def __init__(
        self,
        images: Rows,
        numbers: Tensor,
        num: int,
        size: int,
        *,
        key: int,
        anew: bool,
        min_variance: float,
        preprocess: Callable[[Tensor], Tensor],
    ) -> None:
        _, channels, height, width = images.shape
        if size > min(height, width):
            raise DataError(f"patch_size {size} does not fit into images of {height} x {width}; lower it")
        if not isinstance(images, Held | Mapped):  # a subset of others may put its own good rows in place of bad ones
            images, numbers = images.subset(numbers), torch.arange(len(numbers))
        self.images, self.numbers, self.size = images, numbers, size
        self.shape, self.dtype = (num, channels, size, size), images.dtype
        self.place = f"cut when read, from {images.place}"
        self.key, self.anew, self.min_variance, self.preprocess = key, anew, min_variance, preprocess

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        places = self.places(numbers, epoch)  # (B, K, 3)
        patches = self._cut(places[:, 0])
        if self.min_variance > 0:
            flat = self._variances(patches) < self.min_variance
            if flat.any():
                patches[flat] = self._choose(places[flat])
        return patches

    def places(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        """Image, top and left of the places that each patch may be cut from, (B, K, 3); K is 1 if any will do."""
        num = _CANDIDATES if self.min_variance > 0 else 1
        start = draws.key(self.key, epoch if self.anew else 0)
        u = draws.uniform(start, numbers, 3 * num).view(-1, num, 3)
        height, width = self.images.shape[-2:]
        counts = torch.tensor([len(self.numbers), height - self.size + 1, width - self.size + 1])
        return (u.double() * counts).long()  # float32 could round up to a count

    def _choose(self, places: Tensor) -> Tensor:
        """Of each row of places (B, K, 3) the first patch with variance enough, or else the one with most."""
        candidates = self._cut(places.flatten(0, 1))
        variances = self._variances(candidates).view(places.shape[:2])
        enough = variances >= self.min_variance
        chosen = torch.where(enough.any(1), enough.int().argmax(1), variances.argmax(1))
        return candidates.unflatten(0, places.shape[:2])[torch.arange(len(places)), chosen]

    def variances(self, numbers: Tensor) -> Tensor:
        """The variance of x over each of the patches numbered `numbers` (B,)."""
        return self._variances(self.read(numbers))

    def _variances(self, patches: Tensor) -> Tensor:
        x = self.preprocess(patches).double().flatten(1)
        return (x - x.mean(1, keepdim=True)).square().mean(1)  # torch's `var` warns of a rank's empty share

    def _cut(self, places: Tensor) -> Tensor:
        """Patches (B, C, size, size) at places (B, 3)."""
        image, top, left = places.T.numpy()
        pixels, image = self._pixels(self.numbers.numpy()[image])
        span = np.arange(self.size)
        channel = np.arange(self.shape[1])[:, None, None]
        rows, columns = (top[:, None] + span)[:, None, :, None], (left[:, None] + span)[:, None, None, :]
        return torch.from_numpy(np.asarray(pixels[image[:, None, None, None], channel, rows, columns]))

    def _pixels(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An array of images, and where in it these are; of one in memory or mapped only the patches are touched."""
        if isinstance(self.images, Held):
            return self.images.values.numpy(), image
        if isinstance(self.images, Mapped) and isinstance(self.images.array, np.ndarray):  # not of HDF5, say
            return self.images.array, image
        unique, where = np.unique(image, return_inverse=True)
        return self.images.read(torch.from_numpy(unique)).numpy(), where

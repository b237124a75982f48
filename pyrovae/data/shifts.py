"""Images unlike those of training: rotated, noisy, partly hidden.

Each takes images uint8 (N, C, H, W), and raises a `DataError` for others and for arguments out of range. What is drawn
for an image is a function of `seed` and of its place in the split.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset
from .errors import DataError
from .normalization import Scaled, first_of

_CHUNK = 1024  # images turned at a time, for they are turned as floats


def rotated(images: Tensor, degrees: float = 45.0) -> Tensor:
    """Turned counter-clockwise about the centre, bilinearly; corners get the median of the image's own border.

    >>> rotated(torch.full((1, 1, 9, 9), 255, dtype=torch.uint8)).min()  # white paper stays white
    tensor(255, dtype=torch.uint8)
    """
    from torchvision.transforms import InterpolationMode  # noqa: PLC0415 - slow to import
    from torchvision.transforms.functional import rotate  # noqa: PLC0415

    _check(images)
    if not math.isfinite(degrees):
        raise DataError(f"degrees must be finite, got {degrees}")
    turned = []
    for chunk in images.split(_CHUNK):
        above = chunk.float() - (border := _border(chunk))  # turned, its corners are filled with zeros
        above = rotate(above, degrees, interpolation=InterpolationMode.BILINEAR)
        turned.append((above + border).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(turned)


def noised(images: Tensor, amount: float = 0.1, seed: int = 0) -> Tensor:
    """Salt and pepper: each pixel, all channels alike, is with probability `amount` black or white, either as likely.

    >>> noised(torch.full((1, 1, 50, 50), 9, dtype=torch.uint8)).unique().tolist()
    [0, 9, 255]
    """
    _check(images, amount=amount)
    result = images.clone()
    for index, image in enumerate(result):
        hit, white = torch.from_numpy(_random(seed, 0, index, (2, *image.shape[1:])))  # (H, W) each
        value = torch.where(white < 0.5, 0, 255).to(image)
        image.copy_(torch.where((hit < amount).to(image.device), value, image))
    return result


def occluded(images: Tensor, fraction: float = 0.25, seed: int = 0, grey: int | None = None) -> Tensor:
    """A block hides part of each image; of the image's proportions, wholly inside, at a place drawn for each.

    A larger block covers what a smaller one covers, but for rounding to whole pixels.

    `fraction`, in [0, 1], of the area is hidden, by `grey`, 0 black to 255 white, or else by the median of the image's
    own border, paper say.

    >>> (occluded(torch.full((1, 1, 8, 8), 9, dtype=torch.uint8), 0.25, grey=0) == 0).sum()
    tensor(16)
    """
    _check(images, fraction=fraction)
    if grey is not None and not 0 <= grey <= 255:
        raise DataError(f"grey must be in 0 ... 255, got {grey}")
    height, width = images.shape[-2:]
    h = round(height * math.sqrt(fraction))
    w = 0 if h == 0 else min(width, round(fraction * height * width / h))  # what rounding h lost, w gives back
    result = images.clone()
    for index, image in enumerate(result):
        v, u = _random(seed, 1, index, 2)
        top, left = round(v * (height - h)), round(u * (width - w))
        image[:, top : top + h, left : left + w] = _border(images[index : index + 1])[0] if grey is None else grey
    return result


SHIFTS: dict[str, Callable[..., Tensor]] = {"rotated": rotated, "noised": noised, "occluded": occluded}


def can_shift(data: Dataset) -> bool:
    """Whether the test split is of 8-bit images, of which there are shifted ones; others know no black or white."""
    rows, preprocess = data.rows("test"), first_of(data.preprocess)
    counts = isinstance(preprocess, Scaled) and preprocess.scale != 255
    return rows.dtype == torch.uint8 and len(rows.shape) == 4 and not counts


def shifted(data: Dataset, name: str, num: int | None = None, **how: Any) -> Dataset:
    """`data` whose test images, and those alone, are shifted; labels stay. Binary images are drawn after the shift.

    A shifted image is drawn by the same random numbers as the image itself. `name` is one of `SHIFTS`, `how` its
    arguments; of `num` only the first so many test images, which are held in memory.
    """
    if name not in SHIFTS:
        raise DataError(f"shift must be one of {', '.join(sorted(SHIFTS))}, got {name!r}")
    if not can_shift(data):
        what = f"{data.name} has {data.rows('test').dtype} {data.x_shape}"
        raise DataError(f"{name}: {what}, not 8-bit images; leave shifts out")
    rows = data.rows("test")
    first = torch.arange(len(rows), device=rows.device)[:num]
    try:
        test = SHIFTS[name](rows.read(first), **how)
    except TypeError as error:
        raise DataError(f"{name}: {error}") from error
    told = ", ".join(f"{key} {value}" for key, value in how.items())
    beside: dict[str, Any] = {  # of as many
        key: {split: of[: len(test)] if split == "test" else of for split, of in getattr(data, key).items()}
        for key in ("labels", "groups", "rows_in_file")
    }
    known = {key: array[: len(test)] for key, array in data.covariates.get("test", {}).items()}
    beside |= {"covariates": {**data.covariates, "test": known}}
    return replace(data, test=test, source=f"{data.source}, test images {name}{told and f' ({told})'}", **beside)


def _random(seed: int, shift: int, index: int, size: Any) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(shift, index))).random(size)


def _border(images: Tensor) -> Tensor:
    """The median of each image's outermost pixels, channel by channel, (N, C, 1, 1) float32."""
    rows, columns = images[..., [0, -1], :], images[..., [0, -1]]
    return torch.cat([rows.flatten(2), columns.flatten(2)], 2).float().median(2).values[..., None, None]


def _check(images: Tensor, **shares: float) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise DataError(f"images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise DataError(f"{name} must be in [0, 1], got {value}")

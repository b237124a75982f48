"""Images unlike those of training: rotated, noisy, partly hidden."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset
from .errors import DataError
from .normalization.normalized import Preprocess
from .scaling import Scaled

_CHUNK = 1024  # images turned at a time, for they are turned as floats


def rotated(images: Tensor, degrees: float = 45.0) -> Tensor:
    """Turned counter-clockwise about the centre, bilinearly; what comes in at the corners is black.

    Args:
        images: uint8 (N, C, H, W).
        degrees: Of the turn.

    Raises:
        DataError: Other images, or an angle that is not finite.
    """
    from torchvision.transforms import InterpolationMode  # noqa: PLC0415 - slow to import
    from torchvision.transforms.functional import rotate  # noqa: PLC0415

    _check(images)
    if not math.isfinite(degrees):
        raise DataError(f"degrees must be finite, got {degrees}")
    turned = [rotate(chunk, degrees, interpolation=InterpolationMode.BILINEAR) for chunk in images.split(_CHUNK)]
    return torch.cat(turned)


def noised(images: Tensor, amount: float = 0.1, seed: int = 0) -> Tensor:
    """Salt and pepper: each pixel, with probability `amount`, is black or white, either as likely.

    All channels of a pixel alike. An image's noise is a function of `seed` and of its place in the split.

    Args:
        images: uint8 (N, C, H, W).
        amount: Probability, in [0, 1].
        seed: Of the noise.

    Raises:
        DataError: Other images, or an amount out of range.
    """
    _check(images)
    _check_share("amount", amount)
    result = images.clone()
    for index, image in enumerate(result):
        generator = _generator(seed, 0, index)
        hit, white = torch.from_numpy(generator.random((2, *image.shape[1:])))  # (H, W) each
        value = torch.where(white < 0.5, 0, 255).to(image)
        image.copy_(torch.where((hit < amount).to(image.device), value, image))
    return result


def occluded(images: Tensor, fraction: float = 0.25, seed: int = 0, grey: int = 0) -> Tensor:
    """A block hides part of each image; of the image's proportions, wholly inside, at a place drawn for each.

    The place is a function of `seed` and of the image's place in the split, and that alone: a larger block covers
    what a smaller one covers, but for rounding to whole pixels.

    Args:
        images: uint8 (N, C, H, W).
        fraction: Of the area that is hidden, in [0, 1].
        seed: Of the places.
        grey: Of the block, 0 black to 255 white.

    Raises:
        DataError: Other images, a fraction or a grey value out of range.
    """
    _check(images)
    _check_share("fraction", fraction)
    if not 0 <= grey <= 255:
        raise DataError(f"grey must be in 0 ... 255, got {grey}")
    height, width = images.shape[-2:]
    h = round(height * math.sqrt(fraction))
    w = 0 if h == 0 else min(width, round(fraction * height * width / h))  # what rounding h lost, w gives back
    result = images.clone()
    for index, image in enumerate(result):
        v, u = _generator(seed, 1, index).random(2)
        top, left = round(v * (height - h)), round(u * (width - w))
        image[:, top : top + h, left : left + w] = grey
    return result


SHIFTS: dict[str, Callable[..., Tensor]] = {"rotated": rotated, "noised": noised, "occluded": occluded}


def can_shift(data: Dataset) -> bool:
    """Whether the test split is of 8-bit images, of which there are shifted ones; others know no black or white."""
    rows, preprocess = data.rows("test"), data.preprocess
    while isinstance(preprocess, Preprocess):
        preprocess = preprocess.first
    counts = isinstance(preprocess, Scaled) and preprocess.scale != 255
    return rows.dtype == torch.uint8 and len(rows.shape) == 4 and not counts


def shifted(data: Dataset, name: str, num: int | None = None, **how: Any) -> Dataset:
    """`data` whose test images, and those alone, are shifted; labels stay. Binary images are drawn after the shift.

    A shifted image is drawn by the same random numbers as the image itself.

    Args:
        data: Any.
        name: One of `SHIFTS`.
        num: Only the first so many test images; they are held in memory.
        how: Arguments of that function.

    Raises:
        DataError: An unknown name or argument, or a number out of range.
    """
    if name not in SHIFTS:
        raise DataError(f"shift must be one of {', '.join(sorted(SHIFTS))}, got {name!r}")
    rows = data.rows("test")
    if not can_shift(data):
        raise DataError(f"{name}: {data.name} has {rows.dtype} {data.x_shape}, not 8-bit images; leave shifts out")
    first = torch.arange(len(rows) if num is None else min(num, len(rows)), device=rows.device)
    try:
        test = SHIFTS[name](rows.read(first), **how)
    except TypeError as error:
        raise DataError(f"{name}: {error}") from error
    told = ", ".join(f"{key} {value}" for key, value in how.items())
    labels = {split: of[: len(test)] if split == "test" else of for split, of in data.labels.items()}
    source = f"{data.source}, test images {name}" + (f" ({told})" if told else "")
    return replace(data, test=test, labels=labels, source=source)


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _check(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise DataError(f"images must be uint8 (N, C, H, W), got {images.dtype} {tuple(images.shape)}")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise DataError(f"{name} must be in [0, 1], got {value}")

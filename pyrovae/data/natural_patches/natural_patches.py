"""Patches of natural images."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from ...data import draws
from ..dataset import SPLITS, Dataset, remembered
from ..decoding.decoding import OnBad, decoded
from ..decoding.pictures import read_picture
from ..errors import DataError
from ..rows import Rows, chunks
from ..scaling import Scaled, Tabulated
from ..splits import stratified
from .filters import Intensity, intensities, local_contrast, olshausen_field
from .patches import Patches
from .photographs import source_files

Filter = Literal["none", "olshausen_field", "local_contrast"]

_CROPS = 4  # a stream of draws; those before are of a data set and of batches
_LOOKED_AT = 256  # training patches, of which one must have the least variance
_MEASURED = 1000  # images at most that say how strong filtered images are


@remembered
def NaturalPatches(  # noqa: N802 - named as the data set is
    *,
    source: Literal["photographs", "folder"] = "photographs",
    root: str | None = None,
    patch_size: PositiveInt = 16,
    num_train: PositiveInt = 50_000,
    num_val: PositiveInt = 5_000,
    num_test: PositiveInt = 5_000,
    image_size: PositiveInt = 256,
    intensity: Intensity = "log",
    filter: Filter = "olshausen_field",
    cutoff: PositiveFloat = 0.39,
    surround: PositiveFloat = 4.0,
    min_variance: NonNegativeFloat = 0.0,
    val_fraction: PositiveFloat = 0.15,
    test_fraction: PositiveFloat = 0.15,
    cache: bool | str = True,
    on_bad: OnBad = "error",
    seed: int = 0,
    num_workers: NonNegativeInt = 2,
) -> Dataset:
    """Grey patches of natural images, cut at random, in other places in each epoch; validation and test patches stay.

    Splits are of images: none gives patches to two of them. Filtered images are divided by one number, their root mean
    square over training images: x has variance 1 there. Unfiltered ones stay in [0, 1].

    Args:
        source: `photographs` are the 12 inside the scikit-image and scikit-learn packages; `folder` is `root`.
        root: Folder of pictures, at any depth; SUN397's own tree is one.
        patch_size: Height and width of a patch in pixels.
        num_train, num_val, num_test: Patches; of training, in an epoch.
        image_size: Pictures' shorter side is scaled to so many pixels, and the square in the middle is cut out;
            smaller pictures are bad ones.
        intensity: `grey` values as in the file, `linear` light, or its `log`, each from 0 to 1; see `intensities`.
        filter: Of whole images: `none`, `olshausen_field` flattens the spectrum, `local_contrast` normalises.
        cutoff: f₀ of `olshausen_field` in cycles a pixel, after scaling; the Nyquist frequency is 0.5.
        surround: Standard deviation of the window of `local_contrast` in pixels.
        min_variance: Least variance of x over a patch; one below it is cut elsewhere, 8 times at most.
        val_fraction, test_fraction: Of all images; at least one each.
        cache: Decode and filter once, into a folder; `false` does so anew whenever patches are cut.
        on_bad: Whether a damaged or too small picture is an error or left out.
        seed: Of the split and of where patches are cut.
        num_workers: Threads that decode, and cut ahead.

    Raises:
        DataError: No folder, no or too few pictures in it, a bad one, or patches larger than images.

    References:
        Emergence of simple-cell receptive field properties by learning a sparse code for natural images (Olshausen &
        Field, 1996), doi:10.1038/381607a0; and as `intensities`, `olshausen_field` and `local_contrast` say.
    """
    files = source_files(source, root)
    told = {"olshausen_field": {"cutoff": cutoff}, "local_contrast": {"surround": surround}}.get(filter, {})
    images, good = decoded(
        "NaturalPatches",
        files,
        partial(_read, image_size=image_size, intensity=intensity, filter=filter, how=told),
        shape=(1, image_size, image_size),
        # The intensity of unfiltered images is a look-up in a table, which needs no copy of them.
        settings={"image_size": image_size, "filter": filter}
        | ({} if filter == "none" else {"intensity": intensity, **told}),
        dtype="uint8" if filter == "none" else "float16",
        cache=cache,
        on_bad=on_bad,
        num_workers=num_workers,
    )
    alike = torch.zeros(len(files), dtype=torch.int64)
    parts = stratified("NaturalPatches", alike, seed, val_fraction=val_fraction, test_fraction=test_fraction)
    parts = tuple(part[torch.isin(part, good)] for part in parts)
    for split, part in zip(SPLITS, parts, strict=True):
        if len(part) == 0:
            raise DataError(f"NaturalPatches: no picture of the {split} split can be read; use more pictures")
    preprocess = _preprocess(filter, intensity, images.subset(parts[0][:_MEASURED]))
    train, val, test = (
        Patches(
            images,
            part,
            num,
            patch_size,
            key=draws.key(seed, _CROPS, SPLITS.index(split)),
            anew=split == "train",
            min_variance=min_variance,
            preprocess=preprocess,
        )
        for split, part, num in zip(SPLITS, parts, (num_train, num_val, num_test), strict=True)
    )
    if min_variance > 0:
        _check_variance(train, min_variance)
    where = "photographs inside scikit-image and scikit-learn" if source == "photographs" else f"pictures in {root}"
    counts = ", ".join(f"{len(part)} {split}" for split, part in zip(SPLITS, parts, strict=True))
    what = f"{patch_size} x {patch_size} patches of {len(good)} {where} ({counts})"
    return Dataset("natural_patches", what, train, val, test, seed=seed, preprocess=preprocess, num_workers=num_workers)


def _check_variance(patches: Patches, least: float) -> None:
    found = patches.variances(torch.arange(min(len(patches), _LOOKED_AT)))
    if found.max() < least:
        raise DataError(
            f"NaturalPatches: dataset.min_variance {least:g} is above that of every patch looked at, {found.max():.3g} "
            "at most; lower it"
        )


def _read(file: Path, *, image_size: int, intensity: Intensity, filter: Filter, how: dict[str, float]) -> np.ndarray:
    """A picture, filtered, (1, image_size, image_size): float16, or uint8 if there is no filter."""
    try:
        with Image.open(file) as image:
            side = min(image.size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        side = image_size  # `read_picture` says what is wrong with it
    if side < image_size:
        raise DataError(f"{file} is only {side} pixels high or wide; lower dataset.image_size {image_size}")
    grey = read_picture(file, image_size=image_size)
    if filter == "none":
        return grey
    act = {"olshausen_field": olshausen_field, "local_contrast": local_contrast}[filter]
    return act(intensities(intensity)[grey[0]], **how)[None].astype(np.float16)


def _preprocess(filter: Filter, intensity: Intensity, training: Rows) -> Callable[[Tensor], Tensor]:
    """From what `_read` gives to x; how strong filtered images are, those of training say."""
    if filter == "none":
        return Tabulated(torch.from_numpy(intensities(intensity)))
    numbers = chunks(torch.arange(len(training)), training)
    squares = torch.cat([training.read(some).double().square().mean((1, 2, 3)) for some in numbers])
    if not squares.any():
        raise DataError(f"NaturalPatches: dataset.filter {filter} leaves nothing of the images; raise dataset.cutoff")
    return Scaled(squares.mean().sqrt().item())

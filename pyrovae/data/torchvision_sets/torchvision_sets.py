"""Any image set that torchvision reads."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from ..dataset import SPLITS, Binarize, Dataset, remembered
from ..decoding.decoding import OnBad, decoded
from ..decoding.pictures import Color, Crop
from ..rows import Rows
from ..splits import stratified
from .fingerprint import fingerprint
from .items import held_pixels, read_item, wanted
from .labels import joined_labels
from .names import find, folder_of
from .parts import opened

_COLORS = {1: "grey", 3: "rgb"}


@remembered
def Torchvision(  # noqa: N802 - named as the data set is
    *,
    set: str,
    root: str = "data",
    options: Mapping[str, Any] = {},
    image_size: PositiveInt | None = None,
    color: Color | None = None,
    crop: Crop = "center",
    val_fraction: PositiveFloat = 0.1,
    test_fraction: PositiveFloat = 0.1,
    binarize: Binarize = "none",
    download: bool = True,
    cache: bool | str = True,
    on_bad: OnBad = "error",
    seed: int = 0,
    num_workers: NonNegativeInt = 2,
) -> Dataset:
    """Any image set of torchvision, by name: FashionMNIST, KMNIST, EMNIST, CIFAR10, SVHN, CelebA, Omniglot and others.

    A set's own training, validation and test images are kept apart as its authors did. What it lacks is a seeded part
    of the training images, class by class. 8-bit pixels that torchvision holds in memory are taken as they are; all
    else is decoded image by image.

    Args:
        set: Name of a class of torchvision.datasets; fashion_mnist is FashionMNIST.
        root: Folder that holds, or shall hold, the files as torchvision lays them out.
        options: Further arguments of that class: `split: letters` of EMNIST. One that names a part of the set, `split:
            extra` of SVHN, makes that part the whole: validation and test images are taken from it.
        image_size: Height and width in pixels; by default that of the images, if they are all alike.
        color: One channel or three; by default as the images are.
        crop: `center` scales the shorter side and cuts the centre out, `none` squeezes the whole picture in.
        val_fraction, test_fraction: Of the training images, where the set has none of its own.
        binarize: `none` gives values in [0, 1].
        download: Whether files that are missing may be downloaded; files that are there are read without network.
        cache: Decode once, into a folder; `false` decodes anew in every epoch.
        on_bad: Whether a damaged file is an error or left out.
        seed: Of the split and of the draws.
        num_workers: Threads that decode.

    Raises:
        ValueError: No such set, or options that it does not take.
        DataError: No files, or an image that cannot be read or is of another size.
    """
    name = find(set)
    parts = opened(name, root, options, download)
    labels, class_names = joined_labels(list(parts.values()))
    raw: Tensor | Rows
    part_of = torch.cat([torch.full((len(parts[split]),), i) for i, split in enumerate(SPLITS) if split in parts])
    held = held_pixels(list(parts.values()))
    if held is not None and _is_as_wanted(held, image_size, color):
        raw, good = held, torch.arange(len(held))
    else:
        how, shape = wanted(parts, image_size, color, crop, on_bad)
        raw, good = decoded(
            name,
            [(part, number) for part, images in parts.items() for number in range(len(images))],
            partial(read_item, parts=parts, shape=shape, **how),
            shape=shape,
            settings={"set": name, "options": dict(options), "files": fingerprint(list(parts.values()), root), **how},
            cache=cache,
            on_bad=on_bad,
            num_workers=num_workers,
        )
    fractions = {"val": val_fraction, "test": test_fraction}
    lacking = {split: fraction for split, fraction in fractions.items() if split not in parts}
    numbers = [part[torch.isin(part, good)] for part in _parted(name, part_of, labels, seed, lacking)]
    classes = f" of {len(class_names)} classes" if class_names else ""
    data = Dataset.parted(
        "torchvision",
        f"{name}, {len(good)} images{classes} in {folder_of(name, root)}",
        raw,
        numbers,
        binarize=binarize,
        seed=seed,
        class_names=class_names,
        num_workers=num_workers,
    )
    return replace(data, labels={s: labels[of] for s, of in zip(SPLITS, numbers, strict=True) if labels[of].min() >= 0})


def _is_as_wanted(pixels: Tensor, image_size: int | None, color: Color | None) -> bool:
    num_channels, *size = pixels.shape[1:]
    return (image_size is None or size == [image_size, image_size]) and color in (None, _COLORS[num_channels])


def _parted(name: str, part_of: Tensor, labels: Tensor, seed: int, lacking: Mapping[str, float]) -> list[Tensor]:
    """Numbers of each split: of its own part, or if it lacks one of a fraction of training images, class by class."""
    own: dict[str, Tensor] = {split: (part_of == i).nonzero()[:, 0] for i, split in enumerate(SPLITS)}
    if lacking:
        pool = own["train"]
        classes = labels[pool] - labels[pool].min()  # those without label are a class too
        taken = stratified(name, classes, seed, **{f"{split}_fraction": of for split, of in lacking.items()})
        own |= {split: pool[part] for split, part in zip(("train", *lacking), taken, strict=True)}
    return [own[split] for split in SPLITS]

"""A user's own arrays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from ..dataset import SPLITS, Binarize, Dataset, remembered
from ..errors import DataError
from ..rows import Mapped, Rows
from ..scaling import Scaled, as_floats
from ..splits import stratified
from .as_images import AsImages, Layout, image_layout
from .files import ArrayFile, array_file
from .labels import class_numbers
from .names import Key, Names, data_names, label_names

_LOOKED_AT = 1000  # datapoints that must show that 8 bits are pixels


@remembered
def Arrays(  # noqa: N802 - a data set, as the others are
    *,
    path: str,
    key: Key | None = None,
    labels: str = "auto",
    labels_key: Key | None = None,
    layout: Layout = "auto",
    scale: Literal["auto", "none"] | PositiveFloat = "auto",
    binarize: Binarize = "none",
    val_fraction: PositiveFloat = 0.1,
    test_fraction: PositiveFloat = 0.1,
    seed: int = 0,
    num_workers: NonNegativeInt = 0,
) -> Dataset:
    """Images, vectors or counts from a .npy, .npz or HDF5 file, mapped into memory where they lie as they are.

    Shapes: (N, D) vectors; (N, H, W), (N, C, H, W) and (N, H, W, C) images. Splits of the file's own, `train_x` and
    `test_x` say, are kept, and those that are missing taken from its training datapoints.

    Args:
        path: .npy, .npz, .h5 or .hdf5.
        key: Array in the file, `group/data` say; or one for each split, {train: a, val: b, test: c}. By default the
            only array, or `x`, `X`, `images` or `data`.
        labels: A file of class numbers or names; `auto` takes those in the data's own file, `none` none.
        labels_key: Array of labels; by default `labels` or `y`.
        layout: Whether images are `channels_first` or `channels_last`; `auto` where the shape tells.
        scale: x = array / scale. `auto` is 255 for images of 8 bits and 1 for all else.
        binarize: `none`, or draw binary data from values in [0, 1].
        val_fraction, test_fraction: Of all datapoints, class by class, where the file has no such split.
        seed: Of the splits and of the draws.
        num_workers: Threads that read batches ahead.

    Raises:
        DataError: A file that is missing or damaged, or that does not hold what it should.
    """
    file = array_file(Path(path), "dataset.path")
    names = data_names(file, key)
    raw = {split: _rows(file, name, layout) for split, name in names.items()}
    classes, class_names = _labels(file, names, raw, labels, labels_key)
    first = raw[next(iter(names))]
    fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    parts, numbers = _parted(raw, classes, seed, fractions)
    return Dataset(
        "arrays",
        _source(file, names, class_names),
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        binarize=binarize,
        seed=seed,
        labels=numbers,
        class_names=class_names,
        preprocess=_preprocess(file, first, scale),
        num_workers=num_workers,
    )


def _rows(file: ArrayFile, name: str, layout: Layout) -> Rows:
    what, (shape, dtype) = f"{file.path}{name and f' ({name})'}", file.arrays[name]
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise DataError(f"{what}: holds {dtype}; save real numbers, float32 or uint8 say")
    if not 2 <= len(shape) <= 4 or 0 in shape:
        raise DataError(f"{what}: has shape {shape}; it must be (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C)")
    rows = Mapped(file.open(name))
    return rows if len(shape) == 2 else AsImages(rows, image_layout(what, shape, layout))


def _labels(
    file: ArrayFile, names: Names, raw: Mapping[str, Rows], labels: str, key: Key | None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Class numbers by split, and what they mean."""
    if labels == "none":
        return {}, ()
    asked = labels != "auto" or key is not None
    if labels != "auto":
        beside = file.path.parent / labels
        file = array_file(Path(labels) if Path(labels).exists() else beside, "dataset.labels")
    found = label_names(file, key)
    if found is None and labels != "auto" and len(file.arrays) == 1:
        found = {"all": next(iter(file.arrays))}
    if found is not None and "all" in found and "train" in names:
        of_training = file.arrays[found["all"]].shape[:1] == (len(raw["train"]),)  # `y` beside `x` and `x_test`
        found = {"train": found["all"]} if of_training else found
    if found is not None and found.keys() <= names.keys():
        return class_numbers(file, found, {split: len(rows) for split, rows in raw.items()}, must=asked)
    if asked:
        holds = ", ".join(file.arrays)
        raise DataError(f"dataset.labels: {file.path} has none for {', '.join(names)} of the data; it holds: {holds}")
    return {}, ()


def _parted(
    raw: Mapping[str, Rows], classes: Mapping[str, Tensor], seed: int, fractions: Mapping[str, float]
) -> tuple[dict[str, Rows], dict[str, Tensor]]:
    """Rows and labels of the three splits."""
    whole = next(iter(raw))  # all, or train
    wanted = {key: value for key, value in fractions.items() if key.removesuffix("_fraction") not in raw}
    if not wanted:
        return dict(raw), dict(classes)
    strata = classes.get(whole, torch.zeros(len(raw[whole]), dtype=torch.int64))
    parts = dict(zip(("train", *wanted), stratified("arrays", strata, seed, **wanted), strict=True))
    taken = {name.removesuffix("_fraction"): part for name, part in parts.items()}
    rows = {**raw, **{split: raw[whole].subset(part) for split, part in taken.items()}}
    numbers = {**classes, **({split: strata[part] for split, part in taken.items()} if whole in classes else {})}
    return {split: rows[split] for split in SPLITS}, {split: numbers[split] for split in SPLITS if split in numbers}


def _preprocess(file: ArrayFile, rows: Rows, scale: Literal["auto", "none"] | float) -> Any:
    if scale == "none" or (scale == "auto" and len(rows.shape) == 2):
        return Scaled(1.0)
    if scale != "auto":
        return Scaled(float(scale))
    if rows.dtype == torch.uint8 and (top := int(rows.read(torch.arange(min(len(rows), _LOOKED_AT))).max())) < 128:
        raise DataError(
            f"{file.path}: images of 8 bits whose values end at {top} may be counts, masks or dark pixels; set "
            "dataset.scale: none for counts and masks, 255 for pixels"
        )
    return as_floats


def _source(file: ArrayFile, names: Names, class_names: tuple[str, ...]) -> str:
    name = next(iter(names.values()))
    shape, dtype = file.arrays[name]
    told = f"{name or 'array'} {' × '.join(map(str, shape))} {np.dtype(dtype).name}"
    return f"{file.path.name}: {told}" + (f", {len(class_names)} classes" if class_names else "")

"""A user's own arrays."""

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat

from .array_files import open_arrays
from .dataset import SPLITS, Binarize, Dataset, Split, remembered
from .errors import DataError
from .normalization import Scaled, as_floats
from .rows import Column, Mapped, Rows
from .splits import stratified

Key = str | dict[Split, str]

_LABELS = ("labels", "y")
_LOOKED_AT = 1000  # datapoints that must show that 8 bits are pixels
_COLOURS, _MOST_CHANNELS = (1, 3), 4  # sizes of a last index that is of channels; of a first one that may be


@remembered
def Arrays(  # noqa: N802 - a data set, as the others are
    *, path: str, key: Key | None = None, labels: str = "auto", labels_key: Key | None = None,
    layout: Literal["auto", "channels_first", "channels_last"] = "auto",
    scale: Literal["auto", "none"] | PositiveFloat = "auto", binarize: Binarize = "none", seed: int = 0,
    val_fraction: PositiveFloat = 0.1, test_fraction: PositiveFloat = 0.1, num_workers: NonNegativeInt = 0,
) -> Dataset:  # fmt: skip
    """Images, vectors or counts from a .npy, .npz or HDF5 file, mapped into memory where they lie as they are.

    Shapes: (N, D) vectors; (N, H, W), (N, C, H, W) and (N, H, W, C) images. Every other array of N rows, labels that
    are no whole numbers or text too, is a covariate, and goes along with its datapoints; of a split of its own
    `NAME_train`, `NAME_val` or `NAME_test`.

    Args:
        path: .npy, .npz, .h5 or .hdf5.
        key: Array in the file, `group/data` say; or one for each split, {train: a, val: b, test: c}. By default
            `x_train`, `x_val` and `x_test`, where x_train is there; else `x`; else the only array beside labels. A
            split that is missing is taken from the training datapoints.
        labels: A file of classes, whole numbers or text; `auto` takes those in the data's own file, `none` none.
        labels_key: As `key`; by default `labels`, or `y`.
        layout: Whether images are `channels_first` or `channels_last`; `auto` where the shape tells.
        scale: x = array / scale. `auto` is 255 for images of 8 bits and 1 for all else.
        binarize: `none`, or draw binary data from values in [0, 1].
        val_fraction, test_fraction: Of all datapoints, class by class, where the file has no such split.
        seed: Of the splits and of the draws.
        num_workers: Threads that read batches ahead.

    Raises:
        DataError: A file that is missing or damaged, or that does not hold what it should.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(path := f"{folder}/trials.npz", x=np.ones((50, 7)), speed=np.linspace(0, 1, 50))
    ...     data = Arrays(path=path)
    >>> len(data.train), list(data.covariates["train"])
    (40, ['speed'])
    """
    arrays = open_arrays(file := Path(path), "dataset.path")
    others = [name for name in arrays if _split_of(name)[0] not in _LABELS]
    names = _names(file, arrays, key, ("x",), "dataset.key", others)
    raw = {part: _rows(file, name, arrays[name], layout) for part, name in names.items()}
    covariates = _beside(arrays, names, raw)
    classes = {} if labels == "none" else _labels(file, arrays, raw, covariates, labels, labels_key)
    name = next(iter(names.values()))
    told = f"{file.name}: {name or 'array'} {' × '.join(map(str, arrays[name].shape))} {arrays[name].dtype.name}"
    fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    options = {"binarize": binarize, "preprocess": _preprocess(file, raw, scale), "num_workers": num_workers}
    return from_splits("arrays", told, raw, classes, covariates, fractions, seed, **options)


def from_splits(
    name: str, source: str, raw: Mapping[str, Rows], labels: Mapping[str, np.ndarray],
    covariates: Mapping[str, Mapping[str, Any]], fractions: Mapping[str, float], seed: int, **options: Any,
) -> Dataset:  # fmt: skip
    """A data set of rows that are split already, {train: ...}, or not, {all: ...}; what is missing is taken from these.

    `labels` (N,), of any kind, and `covariates` (N, ...) are of each part that has them; `fractions` are `val_fraction`
    and `test_fraction`, and `options` further attributes of the data set.
    """
    known, numbers = np.unique(np.concatenate([*labels.values()] or [np.empty(0)]), return_inverse=True)
    each = torch.from_numpy(numbers.reshape(-1).astype(np.int64)).split([len(of) for of in labels.values()])
    classes = dict(zip(labels, each, strict=True))
    chosen = {
        part: (part, torch.arange(len(rows))) for part, rows in raw.items()
    }  # for each split a part, and its rows
    if missing := {key: value for key, value in fractions.items() if key.removesuffix("_fraction") not in raw}:
        whole = "all" if "all" in raw else "train"
        taken = stratified(name, classes.get(whole, torch.zeros(len(raw[whole])).long()), seed, **missing)
        splits = ("train", *(key.removesuffix("_fraction") for key in missing))
        chosen |= {split: (whole, numbers) for split, numbers in zip(splits, taken, strict=True)}
    whose = {split: chosen[split] for split in SPLITS}
    told = tuple(value.decode() if isinstance(value, bytes) else str(value) for value in known.tolist())
    options |= {
        "labels": {split: classes[part][rows] for split, (part, rows) in whose.items() if part in classes},
        "rows_in_file": {split: rows for split, (_, rows) in whose.items()},
        "covariates": {
            split: {key: Column(array, rows) for key, array in covariates.get(part, {}).items()}
            for split, (part, rows) in whose.items()
        },
    }
    train, val, test = (raw[part].subset(rows) for part, rows in whose.values())
    source += f", {len(told)} classes" if told else ""
    return Dataset(name, source, train, val, test, seed=seed, class_names=told, **options)


def _names(
    file: Path, arrays: Mapping[str, Any], key: Key | None, defaults: Sequence[str],
    setting: str, others: Sequence[str] | None,
) -> dict[str, str]:  # fmt: skip
    """{"all": an array's name}, or those of the splits; by default one of `defaults`, or the only one of `others`."""
    if key is None:
        for name in defaults:
            own = {str(split): f"{name}_{split}" for split in SPLITS if f"{name}_{split}" in arrays}
            if "train" in own:
                return own
            if name in arrays:  # `x` beside `x_test` is the training data
                return {"train": name, **own} if own else {"all": name}
        if others is None:
            return {}
        if len(others) != 1 or _split_of(others[0])[1]:
            raise DataError(f"{file} holds no {defaults[0]}; set {setting} to one of: {_listed(arrays)}")
        key = others[0]
    names = {str(split): key[split] for split in SPLITS if split in key} if isinstance(key, Mapping) else {"all": key}
    missing = [name for name in names.values() if name not in arrays]
    if missing or not {"all", "train"} & names.keys():
        problem = f"{missing[0]!r} is not in {file}" if missing else "names no train"
        remedy = "leave it out" if "" in arrays else f"it holds: {_listed(arrays)}"
        raise DataError(f"{setting}: {problem}; {remedy}")
    return names


def _split_of(name: str) -> tuple[str, str]:
    """`y_test` is y of test; what names no split is of all, or of train."""
    base, _, split = name.rpartition("_")
    return (base, split) if base and split in SPLITS else (name, "")


def _beside(arrays: Mapping[str, Any], names: Mapping[str, str], raw: Mapping[str, Rows]) -> dict[str, dict[str, Any]]:
    """What else the file holds of each part's datapoints: a row for each."""
    found: dict[str, dict[str, Any]] = {part: {} for part in raw}
    for name, array in arrays.items():
        base, split = _split_of(name)
        base, part = (base, split) if split in raw else (name, next(iter(raw)))
        if name not in names.values() and array.shape[:1] == raw[part].shape[:1] and not array.dtype.hasobject:
            found[part][base] = array
    return found


def _labels(
    file: Path, arrays: Mapping[str, Any], raw: Mapping[str, Rows], covariates: dict[str, dict[str, Any]],
    labels: str, key: Key | None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Classes (N,) of each part that has them; what is continuous is added to the covariates."""
    if labels != "auto":
        file = Path(labels) if Path(labels).exists() else file.parent / labels
        arrays = open_arrays(file, "dataset.labels")
    names = _names(file, arrays, key, _LABELS, "dataset.labels_key", None if labels == "auto" else list(arrays))
    if "all" in names and "all" not in raw:  # `y` beside `x_train`
        names = {"train": names["all"]}
    found = {part: arrays[name] for part, name in names.items() if part in raw}
    for part, array in found.items():
        num, what = array.shape[0] if array.shape else 1, f"({names[part] or 'the array'}) for"
        if array.dtype.hasobject or num != len(raw[part]):
            what = f"{num} {'objects' if array.dtype.hasobject else 'labels'} {what} {len(raw[part])} datapoints"
            raise DataError(f"{file}: {what}; mend them, or set dataset.labels: none")
    odd = [a for a in found.values() if a.dtype.kind not in "biuSU" or a.shape[1:] not in ((), (1,))]
    for part, array in found.items():
        name = _split_of(names[part])[0] or "labels"
        if odd:
            covariates[part][name] = array
        elif labels == "auto":
            covariates[part].pop(name, None)
    if odd:
        told = f"labels are {odd[0].dtype} {odd[0].shape}: a covariate; classes are whole numbers or text, (N,)"
        _say(f"{file}: {told}")
    return {} if odd else {part: np.asarray(array[:]).reshape(-1) for part, array in found.items()}


def _rows(file: Path, name: str, array: Any, layout: str) -> Rows:
    what, shape, dtype = f"{file}{name and f' ({name})'}", array.shape, array.dtype
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise DataError(f"{what}: holds {dtype}; save real numbers, float32 or uint8 say")
    if not 2 <= len(shape) <= 4 or 0 in shape:
        raise DataError(f"{what}: has shape {shape}; it must be (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C)")
    if len(shape) < 4:
        return Mapped(array, "HW" if len(shape) == 3 else "")
    if layout == "auto" and shape[3] in _COLOURS and shape[1] <= _MOST_CHANNELS:
        how = "set dataset.layout to channels_first or channels_last"
        raise DataError(f"{what}: shape {shape} may be (N, C, H, W) or (N, H, W, C); {how}")
    last = shape[3] in _COLOURS if layout == "auto" else layout == "channels_last"
    return Mapped(array, "HWC" if last else "CHW")


def _preprocess(file: Path, raw: Mapping[str, Rows], scale: str | float) -> Any:
    rows = next(iter(raw.values()))
    if scale != "auto" or len(rows.shape) == 2:
        return Scaled(1.0 if isinstance(scale, str) else float(scale))
    if rows.dtype == torch.uint8 and (top := int(rows.read(torch.arange(min(len(rows), _LOOKED_AT))).max())) < 128:
        what = f"images of 8 bits whose values end at {top} may be counts, masks or dark pixels"
        raise DataError(f"{file}: {what}; set dataset.scale: none for counts and masks, 255 for pixels")
    return as_floats


@cache
def _say(line: str) -> None:
    """Once in a process, however often a file is opened."""
    print(line, file=sys.stderr)


def _listed(arrays: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {a.shape}" for name, a in arrays.items()) or "nothing"

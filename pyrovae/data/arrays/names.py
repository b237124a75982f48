"""Which arrays of a file are the data, which the labels, and which of them are splits."""

import re
from collections.abc import Mapping, Sequence
from typing import get_args

from ..dataset import SPLITS, Split
from ..errors import DataError
from .files import ArrayFile

Key = str | dict[Split, str]
Names = dict[str, str]  # {"all": name}, or the name of each split that there is

_DATA = ("x", "X", "images", "data")
_LABELS = ("labels", "y")
_WORDS: dict[str, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def data_names(file: ArrayFile, key: Key | None) -> Names:
    """The arrays of the data.

    A `key` names an array, or what comes after `train_`, before `_train` and the like, or an array for each split.
    Without one: the only array, or `x`, `X`, `images`, `data`, whole or by splits, or `train` and so on alone.
    An array beside one that has its name and `test` or `val` is that of training.

    Raises:
        DataError: No such array, or several that could be meant.
    """
    if key is not None:
        return _named(file, key, "dataset.key")
    found = _first(file.arrays, (*_DATA, ""))
    if found is None:
        labels = {name for of in _LABELS for name in (_splits(file.arrays, of) | {"all": of}).values()}
        others = [name for name in file.arrays if name not in labels]
        if len(others) != 1:
            what = "no array" if not file.arrays else "several arrays"
            raise DataError(f"{file.path} holds {what}; set dataset.key to one of: {_listed(file)}")
        found = {"all": others[0]}
        if {*re.split("[_/]", others[0])} & {*_WORDS["val"], *_WORDS["test"]}:
            raise DataError(
                f"{file.path} holds {others[0]} and nothing to train on; set dataset.key to {others[0]} to split that"
            )
    return found


def label_names(file: ArrayFile, key: Key | None) -> Names | None:
    """The arrays of the labels: by `key`, as for data, or else `labels` or `y`; None if there are none.

    Raises:
        DataError: `key` is not there.
    """
    return _named(file, key, "dataset.labels_key") if key is not None else _first(file.arrays, _LABELS)


def _named(file: ArrayFile, key: Key, setting: str) -> Names:
    if isinstance(key, Mapping):
        missing = [name for name in key.values() if name not in file.arrays]
        if not missing and "train" in key:
            return {split: key[split] for split in get_args(Split) if split in key}
        problem = f"{missing[0]!r} is not in {file.path}" if missing else "names no train"
    else:
        found = _first(file.arrays, (key,)) if key else None
        if found is not None:
            return found
        problem = f"{key!r} is not in {file.path}"
    remedy = "leave it out" if "" in file.arrays else f"it holds: {_listed(file)}"
    raise DataError(f"{setting}: {problem}; {remedy}")


def _first(arrays: Mapping[str, object], names: Sequence[str]) -> Names | None:
    for name in names:
        splits = _splits(arrays, name)
        if name and name in arrays:  # `x` beside `x_test` is the training data
            return {"train": name, **splits} if splits and "train" not in splits else {"all": name}
        if "train" in splits:
            return splits
    return None


def _splits(arrays: Mapping[str, object], name: str) -> Names:
    forms = ("{split}_{name}", "{name}_{split}", "{split}/{name}", "{name}/{split}") if name else ("{split}",)
    found = {}
    for split in SPLITS:
        tried = [form.format(split=word, name=name) for form in forms for word in _WORDS[split]]
        there = [one for one in tried if one in arrays]
        if there:
            found[str(split)] = there[0]
    return found


def _listed(file: ArrayFile) -> str:
    return ", ".join(f"{name} {facts.shape}" for name, facts in file.arrays.items()) or "nothing"

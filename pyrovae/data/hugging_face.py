"""Data sets of the Hugging Face hub."""

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from .arrays import from_splits
from .dataset import Binarize, Dataset, remembered
from .downloads import first_line
from .errors import DataError
from .rows import Rows

_MODES = {"grey": "L", "rgb": "RGB"}
_SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}


@remembered
def HF(  # noqa: N802 - a data set, as the others are
    *, path: str, subset: str | None = None, key: str = "image", labels_key: str | None = "label",
    image_size: PositiveInt | None = None, color: Literal["grey", "rgb"] = "grey", binarize: Binarize = "none",
    val_fraction: PositiveFloat = 0.1, test_fraction: PositiveFloat = 0.1, seed: int = 0,
    num_workers: NonNegativeInt = 0,
) -> Dataset:  # fmt: skip
    """A data set of Hugging Face's `datasets`, from the hub or a folder, in splits train, validation and test.

    Needs `pip install 'pyrovae[hf]'`. Pictures are decoded in every epoch. Other columns of numbers are covariates.

    Args:
        path: Name on the hub, `ylecun/mnist` say, or a folder that `save_to_disk` wrote.
        subset: Name of the hub's configuration, where there are several.
        key: Column of pictures, or of arrays: (D,) vectors, (H, W) or (C, H, W) images.
        labels_key: Column of classes; left out where there is no such column.
        image_size: Height and width that pictures are scaled to, the centre cut out; by default they stay as they are.
        color, binarize, val_fraction, test_fraction, seed, num_workers: As of `Arrays`.

    Raises:
        DataError: `datasets` is not installed, no such data set or column, or pictures of unlike sizes.
    """
    try:
        from datasets import ClassLabel, DatasetDict, Value, load_dataset, load_from_disk  # noqa: PLC0415
        from datasets import Image as Picture  # noqa: PLC0415

        local = any(Path(path, name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))
        found = load_from_disk(path) if local else load_dataset(path, subset)
    except ImportError as error:
        raise DataError(f"HF: {error}; pip install 'pyrovae[hf]'") from error
    except Exception as error:  # of the network, of files, of the hub: all sorts
        raise DataError(f"HF: cannot load {path} ({first_line(error)}); name a data set or a folder") from error
    found = found if isinstance(found, DatasetDict) else {"train": found}
    tables = {split: found[name] for name, split in _SPLITS.items() if name in found}
    if "train" not in tables:
        raise DataError(f"HF: {path} has splits {', '.join(found)}, and no train")
    features = tables["train"].features
    if key not in features:
        raise DataError(f"HF: {path} has no column {key}; set dataset.key to one of {', '.join(features)}")
    columns = {split: table.with_format("numpy") for split, table in tables.items()}
    read = tables if isinstance(features[key], Picture) else columns
    raw: dict[str, Rows] = {split: _Table(table, key, image_size, color, path) for split, table in read.items()}
    labels = {split: of[labels_key][:] for split, of in columns.items() if labels_key in features}
    if isinstance(features.get(labels_key), ClassLabel):
        names = np.array([*features[labels_key].names, "none"])
        labels = {split: names[of] for split, of in labels.items()}  # -1, where a split hides its labels
    known = [name for name, of in features.items() if isinstance(of, Value) and re.match("u?int|float|bool", of.dtype)]
    covariates = {split: {c: of[c][:] for c in known if c not in (key, labels_key)} for split, of in columns.items()}
    fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    how: dict[str, Any] = {"seed": seed, "binarize": binarize, "num_workers": num_workers}
    return from_splits("hf", f"Hugging Face {path}", raw, labels, covariates, fractions, **how)


class _Table(Rows):
    """A column of a table: pictures, or arrays."""

    place = "Arrow files, decoded when read"

    def __init__(self, table: Any, key: str, size: int | None, color: str, path: str) -> None:
        self.table, self.key, self.size, self.path, self.mode = table, key, size, path, _MODES[color]
        first = self._datapoint(table[0][key])
        self.shape, self.dtype = (len(table), *first.shape), torch.from_numpy(np.empty(0, first.dtype)).dtype

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        rows = [self._datapoint(value) for value in self.table[numbers.tolist()][self.key]]
        if odd := [row.shape for row in rows if row.shape != self.shape[1:]]:
            raise DataError(f"HF: {self.path} has {odd[0]} beside {self.shape[1:]}; set dataset.image_size")
        return torch.from_numpy(np.array(rows, dtype=None if rows else np.uint8).reshape(-1, *self.shape[1:]))

    def _datapoint(self, value: Any) -> np.ndarray:
        if isinstance(value, Image.Image):
            value = value.convert(self.mode)
            value = ImageOps.fit(value, (self.size, self.size)) if self.size else value
            return np.atleast_3d(np.asarray(value)).transpose(2, 0, 1)
        return np.asarray(value)[None] if np.ndim(value) == 2 else np.asarray(value)

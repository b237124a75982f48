"""Labels of any kind to class numbers."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .files import ArrayFile
from .names import Names


def class_numbers(
    file: ArrayFile, names: Names, sizes: Mapping[str, int], *, must: bool
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Class numbers (N,) by split, and the sorted class names, which are the labels' own values as text.

    Args:
        file: Holds the labels.
        names: The array of each split.
        sizes: How many there must be of each.
        must: They were asked for: if they are no whole numbers or text, (N,), that is an error. Else they are left out.

    Raises:
        DataError: Too few or too many, or such an error.
    """
    for name in names.values():
        shape, dtype = file.arrays[name]
        if dtype.kind in "biuUS" and len(shape) in (1, 2) and shape[1:] in ((), (1,)):
            continue
        if must:
            what = f"{file.path}{name and f' ({name})'}"
            raise DataError(f"{what}: labels are {dtype} {shape}; they must be whole numbers or text, (N,)")
        return {}, ()  # `y` may be anything, the target of a regression say
    found = {split: np.asarray(file.open(name)[:]).reshape(-1) for split, name in names.items()}
    for split, values in found.items():
        if len(values) != sizes[split]:
            raise DataError(
                f"{file.path}: {len(values)} labels ({names[split] or 'the array'}) for {sizes[split]} datapoints; "
                "mend them, or set dataset.labels: none"
            )
    known, numbers = np.unique(np.concatenate(list(found.values())), return_inverse=True)
    ends = np.cumsum([len(values) for values in found.values()])[:-1]
    parts = np.split(numbers.reshape(-1), ends)
    classes = {split: torch.from_numpy(part.astype(np.int64)) for split, part in zip(found, parts, strict=True)}
    return classes, tuple(value.decode() if isinstance(value, bytes) else str(value) for value in known.tolist())

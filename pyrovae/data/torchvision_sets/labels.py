"""Labels of the items of torchvision's sets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .items import some

_LABELS = ("targets", "labels", "_labels", "y", "identity")  # attributes with a label for each item
_PAIRS = ("samples", "_samples", "_flat_character_images", "index")  # ... or with pairs of a file and a label
_NAMES = ("classes", "categories", "all_categories", "_characters", "class_to_idx")


def _labels_of(images: Any) -> Tensor:
    """Class numbers (N,), of an attribute that agrees with what some items say; -1 where there are none."""
    for name in (*_LABELS, *_PAIRS):
        held = getattr(images, name, None)
        try:
            candidate = [b if isinstance(a, str | Tensor) else a for a, b in held] if name in _PAIRS else held  # type: ignore[union-attr]
            labels = torch.as_tensor(np.asarray(candidate, dtype=np.int64)).reshape(len(images), -1)[:, 0]
            if all(_label(images, number) in (None, labels[number]) for number in some(images)):
                return labels.clone()
        except (TypeError, ValueError, RuntimeError):  # no numbers, or not one for each
            pass
    return torch.full((len(images),), -1)


def _label(images: Any, number: int) -> int | None:
    """What an item says itself, unless its file is damaged."""
    try:
        label = images[number][1]
    except Exception:  # said when it is decoded, or left out
        return None
    return int(label)


def _names_of(images: Any, labels: Tensor) -> list[str]:
    num = int(labels.max()) + 1
    for name in _NAMES:
        names = getattr(images, name, None)
        if isinstance(names, Sequence | dict) and len(names) >= num > 0:
            return [n if isinstance(n, str) else ", ".join(n) for n in names]
    return [str(number) for number in range(num)]


def joined_labels(parts: Sequence[Any]) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers of the items of all parts, -1 for none, and what the numbers mean, the same in all parts.

    Args:
        parts: Of one set; Omniglot's, for one, number their characters each from 0.
    """
    labels = [_labels_of(images) for images in parts]
    names = [_names_of(images, of) for images, of in zip(parts, labels, strict=True)]
    longest = max(names, key=len)
    if all(of == longest[: len(of)] for of in names):
        return torch.cat(labels), tuple(longest)
    number = {name: i for i, name in enumerate(dict.fromkeys(name for of in names for name in of))}
    tables = [torch.tensor([*(number[name] for name in of), -1]) for of in names]  # the last entry is that of -1
    return torch.cat([table[of] for table, of in zip(tables, labels, strict=True)]), tuple(number)

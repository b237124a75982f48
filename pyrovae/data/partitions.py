"""Lists of which pictures train and which test."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .errors import DataError

_NAMES = ("Training_{:02}.txt", "Testing_{:02}.txt")


def partition_lists(folder: Path, number: int | Literal["auto", "none"]) -> tuple[Path, Path] | None:
    """The files of a partition: in `folder`, in its `Partitions`, or beside it. `auto` is the first, if it is there.

    Raises:
        DataError: A partition was named, and its files are missing.
    """
    if number == "none":
        return None
    places = (folder, folder / "Partitions", folder.absolute().parent, folder.absolute().parent / "Partitions")
    train, test = (name.format(1 if number == "auto" else number) for name in _NAMES)
    for place in places:
        if (place / train).is_file() and (place / test).is_file():
            return place / train, place / test
    if number == "auto":
        return None
    raise DataError(
        f"SUN397: dataset.partition is {number}, and neither {folder} nor Partitions in or beside it holds {train} and "
        f"{test}; put both there, or set dataset.partition: none for a random split"
    )


def listed(lists: tuple[Path, Path], folder: Path, files: Sequence[Path]) -> tuple[Tensor, Tensor]:
    """Numbers of the files that the lists name, relative to `folder`; rising.

    Raises:
        DataError: A file that is not there, or is in both lists.
    """
    skip = len(folder.parts)
    numbers = {"/".join(file.parts[skip:]): number for number, file in enumerate(files)}
    train, test = ({*_lines(path)} for path in lists)
    for path, names in zip(lists, (train, test), strict=True):
        missing = sorted(names - numbers.keys())
        if missing or not names:
            what = f"names {len(missing)} files that {folder} lacks, {missing[0]} say" if missing else "is empty"
            raise DataError(f"SUN397: {path} {what}; get the rest, or set dataset.partition: none for a random split")
    if both := sorted(train & test):
        raise DataError(f"SUN397: {len(both)} files both train and test, {both[0]} say; mend {lists[0]} or {lists[1]}")
    first, second = (torch.tensor(sorted(numbers[name] for name in names)) for names in (train, test))
    return first, second


def _lines(path: Path) -> list[str]:
    lines = (line.strip().lstrip("/") for line in path.read_text().splitlines())
    return [line for line in lines if line]

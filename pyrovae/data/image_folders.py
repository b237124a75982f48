"""Folders of pictures: any of one's own, and SUN397's photographs of scenes with their lists."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from .dataset import SPLITS, Binarize, Dataset, remembered
from .decoding import OnBad, decoded
from .errors import DataError
from .pictures import Color, Crop, picture_files, read_picture
from .splits import stratified

Partition = Literal["auto", "none", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
Parts = Mapping[str, Tensor]  # split -> numbers of its pictures

_SPLIT_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "test": "test"}


@remembered
def ImageFolder(  # noqa: N802 - as torchvision's
    *,
    root: str,
    image_size: PositiveInt = 32,
    color: Color = "grey",
    crop: Crop = "center",
    val_fraction: PositiveFloat = 0.1,
    test_fraction: PositiveFloat = 0.1,
    binarize: Binarize = "none",
    cache: bool | str = True,
    on_bad: OnBad = "error",
    seed: int = 0,
    num_workers: NonNegativeInt = 2,
) -> Dataset:
    """Any pictures below a folder. Sub-folders are classes, at any depth; with none there are no labels.

    Folders train, val (or valid) and test right below `root` are the splits; what is missing of val and test is taken
    from train. Without folder train, all pictures are split at random.

    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> with TemporaryDirectory() as root:
    ...     for level in range(10):
    ...         Image.new("L", (40, 30), 20 * level).save(f"{root}/{level}.png")
    ...     print(ImageFolder(root=root, image_size=8, cache=False).take("train")[0].shape)
    torch.Size([8, 1, 8, 8])

    Args:
        root: The folder.
        image_size: Height and width in pixels.
        color: One channel or three.
        crop: `center` scales the shorter side and cuts the centre out, `none` squeezes the whole picture in.
        val_fraction, test_fraction: Of all images, or of those in folder train, class by class.
        binarize: `none` gives values in [0, 1].
        cache: Decode once, into the folder of that name, or the user's; `false` decodes anew in every epoch.
        on_bad: Whether a damaged file is an error or left out.
        seed: Of the split.
        num_workers: Threads that decode, and read batches ahead.

    Raises:
        DataError: No folder, no pictures in it, one that cannot be read, or pictures beside the folders of splits.
        OSError: No room for the cache, or its folder cannot be written.
    """
    files = pictures_below("ImageFolder", root, "name a folder of pictures")
    folders, parts = _folders(root, files), folders_of_splits("ImageFolder", root, files)
    if parts is not None:
        folders = [folder.partition("/")[2] or "." for folder in folders]
    what = f"{Path(root)}, split by its folders" if parts else f"{Path(root)}, split at random"
    fractions = {"val": val_fraction, "test": test_fraction}
    look = {"image_size": image_size, "color": color, "crop": crop}
    how = {"cache": cache, "on_bad": on_bad, "num_workers": num_workers}
    return _pictures("ImageFolder", what, files, folders, parts, fractions, look, how, binarize=binarize, seed=seed)


@remembered
def SUN397(  # noqa: N802 - named as the data set is
    *,
    root: str = "data/SUN397",
    image_size: PositiveInt = 32,
    color: Color = "grey",
    crop: Crop = "center",
    partition: Partition = "auto",
    val_fraction: PositiveFloat = 0.1,
    test_fraction: PositiveFloat = 0.1,
    binarize: Binarize = "none",
    cache: bool | str = True,
    on_bad: OnBad = "error",
    seed: int = 0,
    num_workers: NonNegativeInt = 2,
) -> Dataset:
    """SUN397: 108,754 photographs of 397 scene classes, here cropped square and shrunk.

    Args:
        root: Folder with the data set's own tree: `a/abbey/sun_*.jpg`, `o/outdoor/...`, at any depth.
        image_size, color, crop, binarize, cache, on_bad, seed, num_workers: As of `ImageFolder`.
        partition: One of the ten official ones, of 50 training and 50 test images a class, by the lists
            `Training_01.txt` and `Testing_01.txt`, in `root`, in its `Partitions` or beside it; `none` splits all
            images at random; `auto` takes the first partition if its lists are there.
        val_fraction: Of the training list, or of all images, class by class.
        test_fraction: Of all images, class by class, where there is no list.

    Raises:
        DataError: As of `ImageFolder`, or lists that do not fit.
        OSError: No room for the cache, or its folder cannot be written.

    Reference:
        SUN database: Large-scale scene recognition from abbey to zoo (Xiao et al., 2010), doi:10.1109/CVPR.2010.5539970
    """
    remedy = (
        "torchvision's download of it is dead, so get SUN397.tar.gz from vision.princeton.edu/projects/2010/SUN, "
        "unpack it, and set dataset.root to its SUN397 folder"
    )
    files = pictures_below("SUN397", root, remedy)
    lists = _partition_lists(Path(root), partition)
    parts = _listed(lists, Path(root), files) if lists else None
    folders = _folders(root, files)
    what = f"{Path(root)}, split " + (f"by {lists[0].name} and {lists[1].name}" if lists else "at random")
    fractions = {"val": val_fraction, "test": test_fraction}
    look = {"image_size": image_size, "color": color, "crop": crop}
    how = {"cache": cache, "on_bad": on_bad, "num_workers": num_workers}
    return _pictures("SUN397", what, files, folders, parts, fractions, look, how, binarize=binarize, seed=seed)


def pictures_below(name: str, root: str, remedy: str) -> list[Path]:
    """The pictures below a folder, sorted; an error without any."""
    folder = Path(root)
    files = picture_files(folder) if folder.is_dir() else []
    if not files:
        what = "holds no pictures" if folder.is_dir() else "does not exist"
        raise DataError(f"{name}: {folder.resolve()} (dataset.root) {what}; {remedy}")
    return files


def folders_of_splits(name: str, root: str, files: Sequence[Path]) -> Parts | None:
    """Numbers of the pictures of each split that has a folder; None if classes are all that folders tell."""
    tops = [path.partition("/")[0] for path in _folders(root, files)]
    splits, others = {*tops} & _SPLIT_OF_FOLDER.keys(), sorted({*tops} - _SPLIT_OF_FOLDER.keys())
    if "train" not in splits or (splits == {"train"} and others):  # a class of trains among others
        return None
    if others:
        beside = files[tops.index(others[0])]
        raise DataError(f"{name}: {Path(root)} has folder train, and {beside} beside it; move one of them away")
    of = [_SPLIT_OF_FOLDER[top] for top in tops]
    return {split: torch.tensor([n for n, s in enumerate(of) if s == split]) for split in SPLITS if split in of}


def all_splits(
    name: str, parts: Parts | None, labels: Tensor, seed: int, fractions: Mapping[str, float], good: Tensor
) -> list[Tensor]:
    """Numbers of the good datapoints of each split; `parts` are the splits that are given, by default all in train.

    What is missing of val and test is a fraction of train, class by class; a damaged one moves no other elsewhere.
    """
    parts = {"train": torch.arange(len(labels))} if parts is None else parts
    if missing := [split for split in fractions if split not in parts]:
        pool, wanted = parts["train"], {f"{split}_fraction": fractions[split] for split in missing}
        taken = stratified(name, labels[pool], seed, **wanted)
        parts = {**parts, **{split: pool[part] for split, part in zip(("train", *missing), taken, strict=True)}}
    return [parts[split][torch.isin(parts[split], good)] for split in SPLITS]


def _pictures(
    title: str,
    what: str,
    files: Sequence[Path],
    classes: Sequence[str],
    parts: Parts | None,
    fractions: Mapping[str, float],
    look: Mapping[str, Any],
    how: Mapping[str, Any],
    **options: Any,
) -> Dataset:
    """Pictures with their classes, all `.` if there are none."""
    shape = (1 if look["color"] == "grey" else 3, look["image_size"], look["image_size"])
    rows, good = decoded(title, files, partial(read_picture, **look), shape=shape, settings=look, **how)
    names = {label: number for number, label in enumerate(sorted(set(classes)))}
    labels = torch.tensor([names[label] for label in classes])
    splits = all_splits(title, parts, labels, options["seed"], fractions, good)
    options["num_workers"] = how["num_workers"]
    name = {"ImageFolder": "image_folder", "SUN397": "sun397"}[title]
    if set(names) == {"."}:
        return Dataset.parted(name, f"{len(good)} images in {what}", rows, splits, **options)
    source = f"{len(good)} images of {len(names)} classes in {what}"
    return Dataset.parted(name, source, rows, splits, labels, class_names=tuple(names), **options)


def _folders(root: str, files: Sequence[Path]) -> list[str]:
    """The folder of each file, relative to `root`, as a/abbey; `.` is `root` itself."""
    parents = [os.path.dirname(file) for file in files]
    known = {parent: Path(parent).relative_to(root).as_posix() for parent in {*parents}}
    return [known[parent] for parent in parents]


def _partition_lists(folder: Path, number: Partition) -> tuple[Path, Path] | None:
    """The files of a partition: in `folder`, in its `Partitions`, or beside it. `auto` is the first, if it is there."""
    if number == "none":
        return None
    train, test = (f"{kind}_{1 if number == 'auto' else number:02}.txt" for kind in ("Training", "Testing"))
    for place in (folder, folder / "Partitions", folder.absolute().parent, folder.absolute().parent / "Partitions"):
        if (place / train).is_file() and (place / test).is_file():
            return place / train, place / test
    if number == "auto":
        return None
    raise DataError(
        f"SUN397: dataset.partition is {number}, and neither {folder} nor Partitions in or beside it holds {train} and "
        f"{test}; put both there, or set dataset.partition: none for a random split"
    )


def _listed(lists: tuple[Path, Path], folder: Path, files: Sequence[Path]) -> Parts:
    """Numbers of the files that the lists name, relative to `folder`; rising."""
    skip = len(folder.parts)
    numbers = {"/".join(file.parts[skip:]): number for number, file in enumerate(files)}
    train, test = ({line.strip().lstrip("/") for line in path.read_text().splitlines()} - {""} for path in lists)
    for path, names in zip(lists, (train, test), strict=True):
        missing = sorted(names - numbers.keys())
        if missing or not names:
            what = f"names {len(missing)} files that {folder} lacks, {missing[0]} say" if missing else "is empty"
            raise DataError(f"SUN397: {path} {what}; get the rest, or set dataset.partition: none for a random split")
    if both := sorted(train & test):
        raise DataError(f"SUN397: {len(both)} files both train and test, {both[0]} say; mend {lists[0]} or {lists[1]}")
    return {s: torch.tensor(sorted(numbers[n] for n in names)) for s, names in (("train", train), ("test", test))}

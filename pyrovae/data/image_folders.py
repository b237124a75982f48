"""Folders of pictures: any of one's own, and SUN397's photographs of scenes with their lists."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from .dataset import SPLITS, Binarize, Dataset, remembered
from .decoding import Items, OnBad, decoded
from .errors import DataError
from .splits import stratified

Color = Literal["grey", "rgb"]
Crop = Literal["center", "none"]
Partition = Literal["auto", "none", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
Parts = Mapping[str, Tensor]  # split -> numbers of its pictures

_SPLIT_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}


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
    options = locals()
    files = pictures_below("ImageFolder", root, "name a folder of pictures")
    folders, parts = _folders(root, files), folders_of_splits("ImageFolder", root, files)
    if parts:
        folders = [folder.partition("/")[2] or "." for folder in folders]
    what = f"in {root}, split " + ("by its folders" if parts else "at random")
    return _pictures("ImageFolder", what, files, folders, parts, options)


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
        partition: One of the ten official ones, by the lists `Training_01.txt` and `Testing_01.txt`, in `root`, its
            `Partitions` or beside it; `none` splits all at random; `auto` takes the first if its lists are there.
        val_fraction: Of the training list, or of all images, class by class.
        test_fraction: Of all images, class by class, where there is no list.

    Raises:
        DataError, OSError: As of `ImageFolder`; lists that do not fit.

    Reference: Xiao et al. (2010), doi:10.1109/CVPR.2010.5539970
    """
    options = locals()
    remedy = (
        "torchvision's download of it is dead, so get SUN397.tar.gz from vision.princeton.edu/projects/2010/SUN, "
        "unpack it, and set dataset.root to its SUN397 folder"
    )
    files = pictures_below("SUN397", root, remedy)
    parts = {} if partition == "none" else _official(Path(root), partition, files)
    number = 1 if partition == "auto" else partition
    what = f"in {root}, split " + (f"by Training_{number:02}.txt and Testing_{number:02}.txt" if parts else "at random")
    return _pictures("SUN397", what, files, _folders(root, files), parts, options)


def _pictures(
    title: str, what: str, files: Sequence[Path], classes: Sequence[str], parts: Parts, options: Mapping[str, Any]
) -> Dataset:
    """Pictures with their classes, all `.` if there are none; `options` are arguments of `ImageFolder`."""
    look = {key: options[key] for key in ("image_size", "color", "crop")}
    how = {key: options[key] for key in ("cache", "on_bad", "num_workers")}
    shape = (1 if look["color"] == "grey" else 3, look["image_size"], look["image_size"])
    rows, good = decoded(Items(title, files, partial(read_picture, **look), shape, look), **how)
    names, labels = np.unique(classes, return_inverse=True)
    made = {key: options[key] for key in ("binarize", "seed", "num_workers")}
    if names.tolist() != ["."]:
        made |= {"labels": torch.from_numpy(labels), "class_names": tuple(names.tolist())}
        what = f"of {len(names)} classes {what}"
    fractions = {"val": options["val_fraction"], "test": options["test_fraction"]}
    splits = all_splits(title, parts, torch.from_numpy(labels), good, options["seed"], **fractions)
    name = "sun397" if title == "SUN397" else "image_folder"
    return Dataset.parted(name, f"{len(good)} images {what}", rows, splits, **made)


def _folders(root: str, files: Sequence[Path]) -> list[str]:
    """The folder of each file, relative to `root`, as a/abbey; `.` is `root` itself."""
    parents = [os.path.dirname(file) for file in files]
    known = {parent: Path(parent).relative_to(root).as_posix() for parent in {*parents}}
    return [known[parent] for parent in parents]


def folders_of_splits(name: str, root: str, files: Sequence[Path]) -> Parts:
    """Numbers of the pictures of each split that has a folder; nothing if classes are all that folders tell."""
    tops = [path.partition("/")[0] for path in _folders(root, files)]
    splits, others = {*tops} & _SPLIT_OF_FOLDER.keys(), sorted({*tops} - _SPLIT_OF_FOLDER.keys())
    if "train" not in splits or (splits == {"train"} and others):  # a class of trains among others
        return {}
    if others:
        beside = files[tops.index(others[0])]
        raise DataError(f"{name}: {Path(root)} has folder train, and {beside} beside it; move one of them away")
    of = [_SPLIT_OF_FOLDER[top] for top in tops]
    return {split: torch.tensor([n for n, s in enumerate(of) if s == split]) for split in {*of}}


def _official(folder: Path, partition: int | str, files: Sequence[Path]) -> Parts:
    """Numbers of the files that the lists of a partition name, rising; none if `auto` finds no lists of the first."""
    or_none = ", or set dataset.partition: none for a random split"
    number = 1 if partition == "auto" else partition
    lists = {"train": f"Training_{number:02}.txt", "test": f"Testing_{number:02}.txt"}
    places = [below for place in (folder, folder.absolute().parent) for below in (place, place / "Partitions")]
    found = [place for place in places if all((place / name).is_file() for name in lists.values())]
    if not found and partition == "auto":
        return {}
    if not found:
        what = f"neither {folder} nor Partitions in or beside it holds {' and '.join(lists.values())}; put both there"
        raise DataError(f"SUN397: dataset.partition is {partition}, and {what}{or_none}")
    number_of = {"/".join(file.parts[len(folder.parts) :]): number for number, file in enumerate(files)}
    parts = {}
    for split, path in ((split, found[0] / name) for split, name in lists.items()):
        names = {line.strip().lstrip("/") for line in path.read_text().splitlines()} - {""}
        missing = sorted(names - number_of.keys())
        if missing or not names:
            what = f"names {len(missing)} files that {folder} lacks, {missing[0]} say" if missing else "is empty"
            raise DataError(f"SUN397: {path} {what}; get the rest{or_none}")
        parts[split] = torch.tensor(sorted(number_of[name] for name in names))
    if len(both := parts["train"][torch.isin(parts["train"], parts["test"])]):
        what = f"{len(both)} files both train and test, {files[int(both[0])]} say"
        raise DataError(f"SUN397: {what}; mend {' or '.join(lists.values())}{or_none}")
    return parts


def all_splits(name: str, parts: Parts, labels: Tensor, good: Tensor, seed: int, **fractions: float) -> list[Tensor]:
    """Numbers of the `good` datapoints of each split; `parts` are the splits that are given, by default all in train.

    What is missing of val and test is its fraction of train, class by class; a damaged one moves no other elsewhere.
    """
    parts = parts or {"train": torch.arange(len(labels))}
    if missing := [split for split in fractions if split not in parts]:
        wanted = {f"{split}_fraction": fractions[split] for split in missing}
        taken = stratified(name, labels[parts["train"]], seed, **wanted)
        parts = {**parts, **{split: parts["train"][of] for split, of in zip(("train", *missing), taken, strict=True)}}
    return [parts[split][torch.isin(parts[split], good)] for split in SPLITS]


def pictures_below(name: str, root: str, remedy: str) -> list[Path]:
    """`picture_files`, and an error without any."""
    folder = Path(root)
    files = picture_files(folder) if folder.is_dir() else []
    if not files:
        what = "holds no pictures" if folder.is_dir() else "does not exist"
        raise DataError(f"{name}: {folder.resolve()} (dataset.root) {what}; {remedy}")
    return files


def picture_files(folder: Path) -> list[Path]:
    """The pictures below a folder, at any depth, sorted; an upper-case extension counts, what is hidden does not."""

    def fail(error: OSError) -> None:
        raise error

    seen, files = set(), []
    for where, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        about = os.stat(where)
        if (about.st_dev, about.st_ino) in seen:  # a link that leads round
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if name[0] != ".")
        shown = (name for name in names if name[0] != "." and os.path.splitext(name)[1].lower() in _SUFFIXES)
        files += [os.path.join(where, name) for name in shown]
    return [Path(file) for file in sorted(files, key=lambda file: file.split(os.sep))]


def read_picture(
    file: Path, *, image_size: int | None, color: Color = "grey", crop: Crop = "center", enlarge: bool = True
) -> np.ndarray:
    """Pixels of a file, uint8 (C, H, W): `pixels` of it. JPEG, PNG, TIFF and others, of any mode.

    Raises:
        DataError: It is damaged, cut short, no picture, or one of floats or of 32 bits, whose white nobody knows; or it
            would have to be enlarged and must not be.
    """
    try:
        with Image.open(file) as opened:
            if image_size is not None:
                if (side := min(opened.size)) < image_size and not enlarge:
                    raise DataError(f"is only {side} pixels high or wide; lower dataset.image_size {image_size}")
                # Lets the JPEG decoder skip detail that shrinking would throw away.
                opened.draft("RGB", (image_size, image_size))
            return pixels(opened, image_size=image_size, color=color, crop=crop)
    except MemoryError:
        raise
    except DataError as error:
        raise DataError(f"{file} {error}") from error
    except Exception as error:  # damage has many names in Pillow, and not all are OSErrors
        reason = "not a format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"cannot read {file} ({reason}); mend or remove it") from error


def pixels(image: Image.Image, *, image_size: int | None, color: Color = "grey", crop: Crop = "center") -> np.ndarray:
    """Pixels of a picture, uint8 (C, H, W), of any mode; 16 bits are reduced to 8, an orientation tag is obeyed.

    Arguments are as of `ImageFolder`; `image_size` None leaves height and width as they are.
    """
    # Pillow opens 16 bits of PNG and PPM, too, with mode I, which is of 32.
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        what = "floats" if image.mode == "F" else "signed or 32-bit values"
        raise DataError(f"holds {what}; save it with 8 or 16 bits, or as an array for data set arrays")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # converting 16 bits as PIL does would clip at 255
        values = np.asarray(image, dtype=np.float64) / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    image = image.convert("L" if color == "grey" else "RGB")
    if image_size is not None and crop == "center":
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BOX)
    elif image_size is not None:
        image = image.resize((image_size, image_size), Image.Resampling.BOX)
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)

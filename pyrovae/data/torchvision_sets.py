"""Image sets of torchvision, those that were tried: how their parts are named, and where images and labels are."""

import difflib
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from .dataset import Binarize, Dataset, remembered
from .decoding import Items, OnBad, decoded, locked
from .downloads import first_line, quietly
from .errors import DataError
from .image_folders import Color, Crop, all_splits, picture_files, pixels, read_picture


class _Part(NamedTuple):
    """A part of a set: images, uint8 (N, C, H, W) or files; class numbers (N,), -1 for none; their names."""

    images: Tensor | list[Path]
    labels: Sequence[int]
    names: Sequence[str] = ()


def _array(images: Any, *_: Any) -> _Part:
    values = torch.as_tensor(images.data)  # (N, H, W), (N, H, W, 3) or (N, 3, H, W)
    values = values[:, None] if values.dim() == 3 else values.permute(0, 3, 1, 2) if values.shape[-1] == 3 else values
    labels = np.asarray(images.targets if hasattr(images, "targets") else images.labels).reshape(len(values), -1)
    return _Part(values, labels[:, 0].tolist(), getattr(images, "classes", ()))


def _files(images: Any, *_: Any) -> _Part:
    pairs = [images[number] for number in range(len(images))]  # opened with `loader=str`, which decodes nothing
    return _Part([Path(file) for file, _ in pairs], [label for _, label in pairs], images.classes)


def _omniglot(images: Any, *_: Any) -> _Part:
    files = sorted(Path(images[number][0]) for number in range(len(images)))  # torchvision has the order of the disk
    # Each part of the set numbers its characters from 0.
    names, labels = np.unique(["/".join(file.parts[-3:-1]) for file in files], return_inverse=True)
    return _Part(files, labels.tolist(), names.tolist())


def _celeba(images: Any, folder: Path, _: Any) -> _Part:
    return _Part([folder / "img_align_celeba" / name for name in images.filename], images.identity[:, 0].tolist())


def _caltech101(images: Any, folder: Path, _: Any) -> _Part:
    places = [f"{images.categories[y]}/image_{i:04}.jpg" for y, i in zip(images.y, images.index, strict=True)]
    return _Part([folder / "101_ObjectCategories" / place for place in places], images.y, images.categories)


def _pets(images: Any, folder: Path, arguments: Mapping[str, Any]) -> _Part:
    names, labels = np.loadtxt(folder / f"annotations/{arguments['split']}.txt", str, usecols=(0, 1), unpack=True)
    return _Part([folder / f"images/{name}.jpg" for name in names], (labels.astype(int) - 1).tolist(), images.classes)


def _gtsrb(_: Any, folder: Path, arguments: Mapping[str, Any]) -> _Part:
    if arguments["split"] == "train":
        files = picture_files(folder / "GTSRB/Training")
        return _Part(files, [int(file.parent.name) for file in files])
    rows = [line.split(";") for line in (folder / "GT-final_test.csv").read_text().splitlines()[1:]]
    return _Part([folder / "GTSRB/Final_Test/Images" / row[0] for row in rows], [int(row[-1]) for row in rows])


class _Set(NamedTuple):
    """Where a set's files are below `root`, the argument that names its parts, and what its class gives.

    `read` takes an object of the class, its folder and its arguments; `options` are further ones that a user may give.
    """

    folder: str
    key: str = ""
    parts: Mapping[str, Any] = {"train": None}  # a set without a key is whole
    read: Callable[[Any, Path, Mapping[str, Any]], _Part] = _files
    options: tuple[str, ...] = ()


_TRAIN = {"train": True, "test": False}
_SPLIT = {"train": "train", "test": "test"}
_VAL, _VALID = ({"train": "train", "val": val, "test": "test"} for val in ("val", "valid"))

_SETS = {
    **{name: _Set(f"{name}/raw", "train", _TRAIN, _array) for name in ("MNIST", "FashionMNIST", "KMNIST")},
    "EMNIST": _Set("EMNIST/raw", "train", _TRAIN, _array, ("split",)),
    "QMNIST": _Set("QMNIST/raw", "what", _SPLIT, _array),
    "CIFAR10": _Set("cifar-10-batches-py", "train", _TRAIN, _array),
    "CIFAR100": _Set("cifar-100-python", "train", _TRAIN, _array),
    "SVHN": _Set("", "split", _SPLIT, _array),
    "STL10": _Set("stl10_binary", "split", _SPLIT, _array, ("folds",)),
    "USPS": _Set("", "train", _TRAIN, _array),
    "SEMEION": _Set("", read=_array),
    "CelebA": _Set("celeba", "split", _VALID, _celeba),
    "Omniglot": _Set("omniglot-py", "background", _TRAIN, _omniglot),
    "EuroSAT": _Set("eurosat"),
    "Country211": _Set("country211", "split", _VALID),
    "FGVCAircraft": _Set("fgvc-aircraft-2013b", "split", _VAL, options=("annotation_level",)),
    "Flowers102": _Set("flowers-102", "split", _VAL),
    "DTD": _Set("dtd", "split", _VAL, options=("partition",)),
    "RenderedSST2": _Set("rendered-sst2", "split", _VAL),
    "Food101": _Set("food-101", "split", _SPLIT),
    "Caltech101": _Set("caltech101", read=_caltech101),
    "OxfordIIITPet": _Set("oxford-iiit-pet", "split", {"train": "trainval", "test": "test"}, _pets),
    "GTSRB": _Set("gtsrb", "split", _SPLIT, _gtsrb),
}


@remembered
def Torchvision(  # noqa: N802 - named as the data set is
    *,
    set: str,
    root: str = "data",
    options: Mapping[str, Any] = {},
    image_size: PositiveInt | None = None,
    color: Color | None = None,
    crop: Crop = "center",
    val_fraction: PositiveFloat = 0.1,
    test_fraction: PositiveFloat = 0.1,
    binarize: Binarize = "none",
    download: bool = True,
    cache: bool | str = True,
    on_bad: OnBad = "error",
    seed: int = 0,
    num_workers: NonNegativeInt = 2,
) -> Dataset:
    """An image set of torchvision, by name: FashionMNIST, KMNIST, EMNIST, CIFAR10, SVHN, CelebA, Omniglot and others.

    A set's own training, validation and test images are kept apart as its authors did. What it lacks is a seeded part
    of the training images, class by class. 8-bit pixels that torchvision holds in memory are taken as they are; all
    else is decoded image by image.

    Args:
        set: Name of a class of torchvision.datasets; fashion_mnist is FashionMNIST.
        root: Folder that holds, or shall hold, the files as torchvision lays them out.
        options: Further arguments of that class: `split: letters` of EMNIST. One that names a part of the set, `split:
            extra` of SVHN, makes that part the whole: validation and test images are taken from it.
        image_size: Height and width in pixels; by default that of the images, if they are all alike.
        color: One channel or three; by default as the set's images are.
        crop, binarize, cache, on_bad, seed, num_workers: As of `ImageFolder`.
        val_fraction, test_fraction: Of the training images, where the set has none of its own.
        download: Whether files that are missing may be downloaded; files that are there are read without network.

    Raises:
        ValueError: No such set, or options that it does not take.
        DataError: No files, or an image that cannot be read or is of another size.
    """
    name = _find(set)
    folder = Path(root) / _SETS[name].folder
    parts = _parts(name, root, options, download)
    sizes = [len(part.labels) for part in parts.values()]
    numbers = dict(zip(parts, torch.arange(sum(sizes)).split(sizes), strict=True))
    labels, names = _joined(list(parts.values()))
    images: list[Any] = [part.images for part in parts.values()]
    checksum, size, own = None, (), "grey" if name == "Omniglot" else "rgb"
    items: Sequence[Any] = [file for of in images for file in of]
    opened: Callable[..., np.ndarray] = read_picture
    if isinstance(images[0], Tensor):
        raw: Any = torch.cat(images).contiguous()
        checksum, size, own = zlib.crc32(raw.numpy().data), tuple(raw.shape[2:]), "rgb" if raw.shape[1] == 3 else "grey"
        items, opened = range(len(raw)), partial(_opened, values=raw)
    good = torch.arange(len(items))
    if not size or color not in (None, own) or (image_size is not None and size != (image_size, image_size)):
        look = {"image_size": image_size, "color": color or own, "crop": crop}
        settings = {"set": name, "options": dict(options), "checksum": checksum, **look}
        read = partial(opened, **look)
        what = Items(name, items, read, _shape(items, read), settings)
        raw, good = decoded(what, cache=cache, on_bad=on_bad, num_workers=num_workers)
    splits = all_splits(name, numbers, labels, good, seed, val=val_fraction, test=test_fraction)
    classes = f" of {len(names)} classes" if names else ""
    made: dict[str, Any] = {"binarize": binarize, "seed": seed, "class_names": names, "num_workers": num_workers}
    source = f"{name}, {len(good)} images{classes} in {folder}"
    return Dataset.parted("torchvision", source, raw, splits, labels if names else None, **made)


def _find(name: str) -> str:
    """torchvision's spelling of a set's name, which may be written without capitals and with underscores."""
    spelled, plain = {known.lower(): known for known in _SETS}, "".join(filter(str.isalnum, name)).lower()
    if plain in spelled:
        return spelled[plain]
    near = difflib.get_close_matches(plain, spelled, n=3)
    hint = f"; did you mean {' or '.join(spelled[n] for n in near)}?" if near else ";"
    valid = f"valid: {', '.join(_SETS)}; any folder of pictures is data set image_folder"
    raise ValueError(f"set {name!r} is no image set of torchvision that was tried{hint} {valid}")


def _parts(name: str, root: str, options: Mapping[str, Any], download: bool) -> dict[str, _Part]:
    """A set's own parts; what `options` name is all of it."""
    folder, key, parts, read, others = _SETS[name]
    valid = [key, *others] if key else []
    if unknown := options.keys() - {*valid}:
        raise ValueError(f"options.{min(unknown)}: unknown for {name}; valid: {', '.join(valid) or 'none'}")
    if name == "EMNIST" and "split" not in options:
        words = "byclass, bymerge, balanced, letters, digits or mnist"
        raise ValueError(f"options.split: EMNIST needs it; set dataset.options.split: {words}")
    whole = not key or key in options
    given = {"train": options} if whole else {split: {**options, key: part} for split, part in parts.items()}
    return {split: read(_open(name, root, of, download), Path(root) / folder, of) for split, of in given.items()}


def _open(name: str, root: str, arguments: Mapping[str, Any], download: bool) -> Any:
    """An object of torchvision's class, of files on disk, or else downloaded."""
    from torchvision import datasets  # noqa: PLC0415 - slow to import

    loader = {"loader": str} if _SETS[name].read in (_files, _omniglot) else {}
    make = partial(getattr(datasets, name), root, **arguments, **loader)
    where, reason = (Path(root) / _SETS[name].folder).resolve(), "dataset.download is false"
    try:
        with quietly():
            return make(download=False)
    except Exception as error:  # what is missing or damaged, each set says in its own way
        if isinstance(error, ValueError) and "Unknown value" in str(error):
            raise ValueError(f"options: {name}: {first_line(error)}") from error
        failed = error
    if download:
        try:
            Path(root).mkdir(parents=True, exist_ok=True)
            with locked(Path(root) / f".{name}.lock", f"{name}: another process is downloading into {where}"):
                with suppress(Exception), quietly():
                    return make(download=False)  # by now another process may have brought them
                print(f"{name}: no complete files in {where}; downloading them", file=sys.stderr)
                with quietly():
                    return make(download=True)
        except Exception as error:
            reason, failed = f"no download ({first_line(error)})", error
    raise DataError(
        f"torchvision: {name}: no complete files in {where} (dataset.root), and {reason}; put them there as "
        "torchvision lays them out, or name the folder that holds them in dataset.root"
    ) from failed


def _joined(parts: Sequence[_Part]) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers of all, (N,), and what they mean, the same in all parts; nothing where some have no label."""
    if min(label for part in parts for label in part.labels) < 0:  # the unlabelled images of STL10
        return torch.zeros(sum(len(part.labels) for part in parts), dtype=torch.int64), ()
    names = [of.names or [str(number) for number in range(max(of.labels) + 1)] for of in parts]
    number = {name: i for i, name in enumerate(dict.fromkeys(name for of in names for name in of))}
    labels = [number[of[label]] for of, part in zip(names, parts, strict=True) for label in part.labels]
    return torch.tensor(labels), tuple(number)


def _opened(number: int, *, values: Tensor, **look: Any) -> np.ndarray:
    image = values[number].permute(1, 2, 0).numpy()  # (H, W, C)
    return pixels(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), **look)


def _shape(items: Sequence[Any], read: Callable[[Any], np.ndarray]) -> tuple[int, ...]:
    """Of the first image that can be read."""
    for item in items:
        with suppress(DataError):
            return read(item).shape
    return ()

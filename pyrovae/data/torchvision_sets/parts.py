"""Training, validation and test images of a set, as torchvision has them."""

import errno
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from ..downloads import first_line, quietly
from ..errors import DataError
from .names import arguments, folder_of, image_sets

_OURS = {"root", "transform", "target_transform", "transforms", "download", "loader"}  # arguments that are no options
_SPLITS = {"train": ("train", "trainval", "train-standard"), "val": ("val", "valid"), "test": ("test",)}


def opened(name: str, root: str, options: Mapping[str, Any], download: bool) -> dict[str, Any]:
    """A set's own parts, `train` and perhaps `val` and `test`: of files on disk, or else downloaded.

    A part is what `train`, `background` or `split` names, whichever the constructor has. If `options` name one, or
    there is nothing to name, that is all, as `train`.

    Raises:
        ValueError: Options that the set does not take.
        DataError: No files, or damaged ones, and no download.
    """
    takes = arguments(image_sets()[name])
    _check_options(name, takes, options)
    axis = next((key for key in ("train", "background", "split") if key in takes), None)
    if axis is None or axis in options or "what" in options:  # `what` is QMNIST's own name for a part
        return {"train": _open(name, root, options, download)}
    if axis != "split":
        return {part: _open(name, root, {**options, axis: part == "train"}, download) for part in ("train", "test")}
    parts = {}
    for part, spellings in _SPLITS.items():
        for spelling in spellings:
            try:
                parts[part] = _open(name, root, {**options, "split": spelling}, download)
                break
            except _NoPartError:
                pass
    if "train" not in parts:
        raise DataError(f"torchvision: {name} has no part named {_SPLITS['train']}; name one in dataset.options.split")
    if "test" not in parts and "val" in parts:  # its test labels are secret, as ImageNet's are
        parts["test"] = parts.pop("val")
    return parts


class _NoPartError(ValueError):
    """A set has no part of this name."""


def _check_options(name: str, takes: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> None:
    valid = [key for key in takes if key not in _OURS]
    for key in options:
        if key not in valid:
            raise ValueError(f"options.{key}: unknown for {name}; valid: {', '.join(valid) or 'none'}")
    for key in valid:
        if takes[key].default is inspect.Parameter.empty and key not in options:
            values = ", ".join(getattr(image_sets()[name], f"{key}s", ["see torchvision"]))
            raise ValueError(f"options.{key}: {name} needs it; set dataset.options.{key}: {values}")


def _open(name: str, root: str, options: Mapping[str, Any], download: bool) -> Any:
    make = image_sets()[name]
    loads = "download" in arguments(make)
    try:
        with quietly():
            return _sorted(make(root, **options, **({"download": False} if loads else {})))
    except Exception as error:  # what is missing or damaged, each set says in its own way
        _check_value(name, error)
        if not (loads and download):
            reason = "dataset.download is false" if loads else f"torchvision does not download it ({first_line(error)})"
            raise DataError(_missing(name, root, reason)) from error
    print(f"{name}: no complete files in {folder_of(name, root).resolve()}; downloading them", file=sys.stderr)
    try:
        with quietly():
            return _sorted(make(root, **options, download=True))
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise DataError(_missing(name, root, f"no download ({first_line(error)})")) from error


def _sorted(images: Any) -> Any:
    """Images by name where torchvision has them in the order in which the disk lists them."""
    if type(images).__name__ == "INaturalist":
        images.index.sort()
    if type(images).__name__ == "Omniglot":
        names = sorted(images._characters)
        place = [names.index(name) for name in images._characters]
        found = sorted((place[character], file) for file, character in images._flat_character_images)
        # Files are looked up by the number of their character, so both change together.
        images._flat_character_images, images._characters = [(file, number) for number, file in found], names
    return images


def _check_value(name: str, error: Exception) -> None:
    if isinstance(error, ValueError) and "Unknown value" in str(error):
        kind = _NoPartError if "argument split" in str(error) else ValueError
        raise kind(f"options: {name}: {first_line(error)}") from error


def _missing(name: str, root: str, reason: str) -> str:
    where = folder_of(name, root).resolve()
    return (
        f"torchvision: {name}: no complete files in {where} (dataset.root), and {reason}; put them there as "
        "torchvision lays them out, or name the folder that holds them in dataset.root"
    )

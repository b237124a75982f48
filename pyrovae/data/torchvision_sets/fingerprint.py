"""Whether the files of one of torchvision's sets have changed."""

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_LISTS = ("_image_files", "_images", "samples", "_samples", "imgs", "data", "ids")  # where sets name their files
_CACHE = {"settings.json", "states.npy"}  # files of a cache, which is no part of a set


def fingerprint(parts: Sequence[Any], root: str) -> list[int]:
    """Number, bytes, newest change and a checksum of the names of the files that a set reads.

    They are those that the parts name, or else what lies in the set's own folder: strangers below `root` do not count.

    Args:
        parts: Training images, and test images and others if the set has them.
        root: Folder that they were looked for in.
    """
    files = list(dict.fromkeys(os.path.abspath(file) for images in parts for file in _files(images, root)))
    found = [os.stat(file) for file in files if os.path.exists(file)]
    names = "\n".join(os.path.relpath(file, root) for file in files)
    newest = max((f.st_mtime_ns for f in found), default=0)
    return [len(found), sum(f.st_size for f in found), newest, zlib.crc32(os.fsencode(names))]


def _files(images: Any, root: str) -> Iterator[str]:
    listed = _listed(images)
    if listed is not None:
        base = str(getattr(images, "root", root))
        return (os.path.join(base, file) for file in listed)
    folders = _folders(images, root)
    if folders:
        return (file for folder in folders for file in _below(folder))
    single = [getattr(images, "filename", ""), *(names[1] for names in getattr(images, "split_list", {}).values())]
    archives = [os.path.join(root, name) for name in single if isinstance(name, str) and name]
    there = [file for file in archives if os.path.isfile(file)]
    return iter(there) if there else _below(root)


def _listed(images: Any) -> list[str] | None:
    """The files of each image, if the set has a list of them."""
    if hasattr(images, "index") and hasattr(images, "all_categories"):  # INaturalist
        return [os.path.join(images.all_categories[number], file) for number, file in images.index]
    if hasattr(images, "photos"):  # SBU
        return [os.path.join("dataset", file) for file in images.photos]
    for name in _LISTS:
        entries = getattr(images, name, None)
        if isinstance(entries, list) and entries:
            files = [entry[0] if isinstance(entry, tuple) else entry for entry in entries]
            if all(isinstance(file, str | Path) for file in files):
                return [os.fspath(file) for file in files]
    return None


def _folders(images: Any, root: str) -> list[str]:
    """Folders of the set's own: the first kind of them that is there."""
    base = str(getattr(images, "root", root))
    own = base if os.path.abspath(base) != os.path.abspath(root) else None
    name = getattr(images, "base_folder", None)
    below = os.path.join(base, name) if isinstance(name, str) and name else None
    kinds = (
        [getattr(images, "_base_folder", None)],
        [getattr(images, "raw_folder", None)],
        [below],
        [part.root for part in getattr(images, "dbs", [])],  # LSUN
        [own],
        [os.path.join(base, type(images).__name__.lower())],  # FER2013
    )
    found = ([str(folder) for folder in kind if folder is not None and Path(folder).is_dir()] for kind in kinds)
    return next((folders for folders in found if folders), [])


def _below(folder: str) -> Iterator[str]:
    for where, folders, files in os.walk(folder):
        folders.sort()
        if set(files) >= _CACHE:
            folders.clear()
            continue
        yield from (os.path.join(where, file) for file in sorted(files))

"""Photographs that are there without a download."""

import importlib.util
from pathlib import Path
from typing import Literal

from ..decoding.pictures import picture_files
from ..errors import DataError

# Of what the two packages carry, all that shows a scene as an eye would see it, and one of a stereo pair only.
_FILES = {
    ("skimage", "data"): "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png "
    "motorcycle_left.png rocket.jpg",
    ("sklearn", "datasets/images"): "china.jpg flower.jpg",
}


def photographs() -> list[Path]:
    """The 12 photographs inside the scikit-image and scikit-learn packages, found without importing these.

    Raises:
        DataError: A package or a file of it is missing.
    """
    files = []
    for (package, folder), names in _FILES.items():
        found = importlib.util.find_spec(package)
        base = Path(found.origin).parent / folder if found is not None and found.origin else None
        missing = [name for name in names.split() if base is None or not (base / name).is_file()]
        if base is None or missing:
            raise DataError(
                f"photographs: the installed {package} lacks {', '.join(missing)}; install scikit-image and "
                "scikit-learn anew, or set dataset.source: folder and dataset.root"
            )
        files += [base / name for name in names.split()]
    return files


def source_files(source: Literal["photographs", "folder"], root: str | None) -> list[Path]:
    """The photographs, or the pictures below a folder.

    Raises:
        DataError: No folder, or one without pictures.
    """
    if source == "photographs":
        if root is not None:
            raise DataError(f"NaturalPatches: dataset.root {root} is for source folder; set dataset.source: folder")
        return photographs()
    if root is None:
        raise DataError("NaturalPatches: source folder needs one; set dataset.root, or source: photographs")
    folder = Path(root)
    files = picture_files(folder) if folder.is_dir() else []
    if not files:
        what = "holds no pictures" if folder.is_dir() else "does not exist"
        raise DataError(
            f"NaturalPatches: {folder.resolve()} (dataset.root) {what}; name a folder, or set source: photographs"
        )
    return files

"""Photographs that are there without a download."""

import importlib.util
from pathlib import Path

from .errors import DataError

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

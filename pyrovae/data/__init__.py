"""Data sets, batch by batch. Imports nothing of the project."""

from .arrays import Arrays
from .batches import Batches, Numbered
from .dataset import SPLITS, Binarize, Dataset, Split
from .errors import DataError
from .mnist import MNIST
from .outside import Outside
from .rows import Held, Mapped, Rows
from .scaling import Scaled
from .shifts import SHIFTS, noised, occluded, rotated  # not `shifted`, which would be taken for a data set
from .sun397 import SUN397

__all__ = [
    "MNIST",
    "SHIFTS",
    "SPLITS",
    "SUN397",
    "Arrays",
    "Batches",
    "Binarize",
    "DataError",
    "Dataset",
    "Held",
    "Mapped",
    "Numbered",
    "Outside",
    "Rows",
    "Scaled",
    "Split",
    "noised",
    "occluded",
    "rotated",
]

"""Data sets, batch by batch. Imports nothing of the project."""

from .batches import Batches, Numbered
from .dataset import SPLITS, Binarize, Dataset, Split
from .errors import DataError
from .mnist import MNIST
from .rows import Held, Mapped, Rows
from .shifts import SHIFTS, noised, occluded, rotated  # not `shifted`, which would be taken for a data set
from .sun397 import SUN397
from .torchvision_sets import Torchvision

__all__ = [
    "MNIST",
    "SHIFTS",
    "SPLITS",
    "SUN397",
    "Batches",
    "Binarize",
    "DataError",
    "Dataset",
    "Held",
    "Mapped",
    "Numbered",
    "Rows",
    "Split",
    "Torchvision",
    "noised",
    "occluded",
    "rotated",
]

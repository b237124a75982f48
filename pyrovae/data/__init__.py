"""Data sets, batch by batch. Imports nothing of the project."""

from . import draws
from .augmentation import Augmentation
from .batches import Batches, Numbered
from .dataset import SPLITS, Binarize, Dataset, Split
from .errors import DataError
from .image_folder import ImageFolder
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
    "Augmentation",
    "Batches",
    "Binarize",
    "DataError",
    "Dataset",
    "Held",
    "ImageFolder",
    "Mapped",
    "Numbered",
    "Rows",
    "Split",
    "Torchvision",
    "draws",
    "noised",
    "occluded",
    "rotated",
]

"""Data sets, batch by batch. Imports nothing of the project."""

from . import draws
from .arrays import Arrays
from .augmentation import Augmentation
from .batches import Batches, Numbered
from .dataset import SPLITS, Binarize, Dataset, Split
from .errors import DataError
from .image_folders import SUN397, ImageFolder
from .mnist import MNIST
from .natural_patches import NaturalPatches
from .normalization import NORMALIZATIONS, ZCA, Centering, ContrastNormalization, Normalization, Standardization
from .outside import Outside
from .rows import Held, Mapped, Rows
from .scaling import Scaled
from .shifts import SHIFTS, noised, occluded, rotated  # not `shifted`, which would be taken for a data set
from .torchvision_sets import Torchvision

__all__ = [
    "MNIST",
    "NORMALIZATIONS",
    "SHIFTS",
    "SPLITS",
    "SUN397",
    "ZCA",
    "Arrays",
    "Augmentation",
    "Batches",
    "Binarize",
    "Centering",
    "ContrastNormalization",
    "DataError",
    "Dataset",
    "Held",
    "ImageFolder",
    "Mapped",
    "NaturalPatches",
    "Normalization",
    "Numbered",
    "Outside",
    "Rows",
    "Scaled",
    "Split",
    "Standardization",
    "Torchvision",
    "draws",
    "noised",
    "occluded",
    "rotated",
]

"""Data sets as tensors on the device. Imports nothing of the project."""

from .base import Batches, Binarize, DataError, ImageData, Split
from .mnist import MNIST
from .shifts import SHIFTS, noised, occluded, rotated  # not `shifted`, which would be taken for a data set
from .sun397 import SUN397

__all__ = [
    "MNIST",
    "SHIFTS",
    "SUN397",
    "Batches",
    "Binarize",
    "DataError",
    "ImageData",
    "Split",
    "noised",
    "occluded",
    "rotated",
]

"""Data sets, batch by batch. Imports nothing of the project."""

from . import draws
from .arrays import Arrays
from .augmentation import Augmentation
from .dataset import SPLITS, Batches, Binarize, Dataset, Numbered, Split
from .errors import DataError
from .hugging_face import HF
from .image_folders import SUN397, ImageFolder
from .mnist import MNIST
from .natural_patches import NaturalPatches
from .normalization import NORMALIZATIONS, ZCA, Centering, ContrastNormalization, Normalization, Scaled, Standardization
from .outside import Outside
from .rows import Column, Held, Mapped, Rows
from .shifts import SHIFTS, noised, occluded, rotated  # not `shifted`, which would be taken for a data set
from .torchvision_sets import Torchvision

__all__ = ["HF", "MNIST", "SUN397", "Arrays", "ImageFolder", "NaturalPatches", "Torchvision"]  # the data sets
__all__ += ["SPLITS", "Batches", "Binarize", "Column", "DataError", "Dataset", "Held", "Mapped", "Numbered", "Outside"]
__all__ += ["Rows", "Scaled", "Split", "draws"]
__all__ += ["NORMALIZATIONS", "ZCA", "Centering", "ContrastNormalization", "Normalization", "Standardization"]
__all__ += ["SHIFTS", "Augmentation", "noised", "occluded", "rotated"]

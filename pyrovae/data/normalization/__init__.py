"""Normalizations of x, fitted to training data."""

from .normalization import Centering, ContrastNormalization, Normalization, Standardization
from .normalized import NORMALIZATIONS
from .zca import ZCA

__all__ = ["NORMALIZATIONS", "ZCA", "Centering", "ContrastNormalization", "Normalization", "Standardization"]

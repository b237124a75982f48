"""What a data set is, in words, numbers and a picture."""

from .figure import figure
from .report import DataReport, catalogue, inspected, words

__all__ = ["DataReport", "catalogue", "figure", "inspected", "words"]

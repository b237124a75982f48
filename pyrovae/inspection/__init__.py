"""What a data set is, in words, numbers and a picture."""

from .catalogue import catalogue
from .figure import figure
from .report import DataReport, SplitReport, inspected, words

__all__ = ["DataReport", "SplitReport", "catalogue", "figure", "inspected", "words"]

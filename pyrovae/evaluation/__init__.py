"""How good is a posterior, and where is the loss? Measures of a trained model and guide."""

from .findings import Findings, estimate
from .subject import Subject
from .traversals import traversals

__all__ = ["Findings", "Subject", "estimate", "traversals"]

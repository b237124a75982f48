"""How good is a posterior, and where is the loss? Measures of a trained model and guide."""

from .calibration import calibration
from .findings import Findings, estimate
from .predictive_checks import predictive_checks
from .representation import representation
from .subject import Subject
from .traversals import traversals

__all__ = [
    "Findings",
    "Subject",
    "calibration",
    "estimate",
    "predictive_checks",
    "representation",
    "traversals",
]

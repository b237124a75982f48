"""How good is a posterior, and where is the loss? Measures of a trained model and guide."""

from .annealed import annealed
from .bounds import bounds
from .bounds_figure import bounds_figure
from .findings import Findings, estimate
from .subject import Subject

__all__ = ["Findings", "Subject", "annealed", "bounds", "bounds_figure", "estimate"]

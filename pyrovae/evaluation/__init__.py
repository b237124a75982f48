"""How good is a posterior, and where is the loss? Measures of a trained model and guide."""

from .findings import Findings, estimate
from .gaps import gap_bars, gaps
from .hardness import hardness, occlusion_curve
from .subject import Subject
from .trajectories import trajectory
from .trajectory_figure import trajectory_figure

__all__ = [
    "Findings",
    "Subject",
    "estimate",
    "gap_bars",
    "gaps",
    "hardness",
    "occlusion_curve",
    "trajectory",
    "trajectory_figure",
]

"""What the families and likelihoods need beyond `pyro.distributions`."""

from .concatenated import Concatenated, joined
from .conditional import Conditional
from .flow import FlowDistribution, moment_noise
from .held_fixed import held_fixed
from .precision import full_precision
from .scale import MIN_SCALE, positive_scale, scale_slope
from .transformed import Transformed

__all__ = [
    "MIN_SCALE",
    "Concatenated",
    "Conditional",
    "FlowDistribution",
    "Transformed",
    "full_precision",
    "held_fixed",
    "joined",
    "moment_noise",
    "positive_scale",
    "scale_slope",
]

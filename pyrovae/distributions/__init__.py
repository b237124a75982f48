"""What the families and likelihoods need beyond `pyro.distributions`."""

from . import kl  # registers closed forms
from .composed import Concatenated, Conditional, Transformed, joined
from .flow import FlowDistribution, moment_noise
from .mixture import ReparameterizedMixture
from .numerics import MIN_SCALE, full_precision, held_fixed, positive_scale, scale_slope

__all__ = [
    "MIN_SCALE",
    "Concatenated",
    "Conditional",
    "FlowDistribution",
    "ReparameterizedMixture",
    "Transformed",
    "full_precision",
    "held_fixed",
    "joined",
    "kl",
    "moment_noise",
    "positive_scale",
    "scale_slope",
]

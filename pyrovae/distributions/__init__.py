"""What the families and likelihoods need beyond `pyro.distributions`."""

from . import kl  # registers closed forms
from .concatenated import Concatenated, joined
from .conditional import Conditional
from .conditioned_low_rank_normal import ConditionedLowRankNormal
from .flow import FlowDistribution, moment_noise
from .held_fixed import held_fixed
from .precision import full_precision
from .reparameterized_mixture import ReparameterizedMixture
from .scale import MIN_SCALE, positive_scale, scale_slope
from .transformed import Transformed

__all__ = [
    "MIN_SCALE",
    "Concatenated",
    "Conditional",
    "ConditionedLowRankNormal",
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

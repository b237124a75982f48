"""What the families and likelihoods need beyond `pyro.distributions`."""

from . import kl  # registers closed forms
from .composed import Concatenated, Conditional, Transformed, joined
from .flow import FlowDistribution
from .mixture import ReparameterizedMixture
from .numerics import MIN_SCALE, full_precision, held_fixed, positive_scale, scale_slope

__all__ = ["MIN_SCALE", "Concatenated", "Conditional", "FlowDistribution", "ReparameterizedMixture", "Transformed"]
__all__ += ["full_precision", "held_fixed", "joined", "kl", "positive_scale", "scale_slope"]

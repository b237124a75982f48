"""Priors p(z): modules whose call returns a distribution of event shape (D,)."""

from .mixture_normal import MixtureNormal
from .standard_normal import StandardNormal

__all__ = ["MixtureNormal", "StandardNormal"]

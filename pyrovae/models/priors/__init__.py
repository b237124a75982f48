"""Priors p(z): modules whose call returns a distribution of event shape (D,)."""

from .flow import Flow
from .mixture_normal import MixtureNormal
from .standard_normal import StandardNormal

__all__ = ["Flow", "MixtureNormal", "StandardNormal"]

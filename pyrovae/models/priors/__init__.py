"""Priors p(z): modules whose call returns a distribution of event shape (D,)."""

from .flow import Flow
from .laplace import Laplace
from .mixture_normal import MixtureNormal
from .standard_normal import StandardNormal
from .vamp_prior import VampPrior

__all__ = ["Flow", "Laplace", "MixtureNormal", "StandardNormal", "VampPrior"]

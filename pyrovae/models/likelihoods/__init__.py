"""Likelihoods p(x | h): modules that turn decoder output h (..., *x_shape) into a distribution.

`support` says which data they have a density for.
"""

from .bernoulli import Bernoulli
from .continuous_bernoulli import ContinuousBernoulli
from .normal import Normal
from .poisson import Poisson

__all__ = ["Bernoulli", "ContinuousBernoulli", "Normal", "Poisson"]

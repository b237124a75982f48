"""What the families and likelihoods need beyond `pyro.distributions`."""

from .held_fixed import held_fixed
from .precision import full_precision

__all__ = ["full_precision", "held_fixed"]

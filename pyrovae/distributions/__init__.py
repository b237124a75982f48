"""What the families and likelihoods need beyond `pyro.distributions`."""

from .precision import full_precision

__all__ = ["full_precision"]

"""Generative models p(x, z) as Pyro programs."""

from . import likelihoods, priors
from .builders import conv, mlp
from .vae import VAE

__all__ = ["VAE", "conv", "likelihoods", "mlp", "priors"]

"""Generative models p(x, z) as Pyro programs."""

from . import likelihoods, priors
from .builders import conv, hierarchical_mlp, mlp
from .hierarchical import HierarchicalVAE
from .vae import VAE

__all__ = ["VAE", "HierarchicalVAE", "conv", "hierarchical_mlp", "likelihoods", "mlp", "priors"]

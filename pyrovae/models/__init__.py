"""Generative models p(x, z) as Pyro programs."""

from . import likelihoods, priors
from .hierarchical import HierarchicalVAE, hierarchical_mlp
from .protocol import Model, can_decode, can_sample
from .vae import VAE, conv, mlp

__all__ = ["VAE", "HierarchicalVAE", "Model", "can_decode", "can_sample"]
__all__ += ["conv", "hierarchical_mlp", "likelihoods", "mlp", "priors"]

"""What the families and likelihoods need beyond `pyro.distributions`."""

from . import kl  # registers closed forms
from .conditioned_low_rank_normal import ConditionedLowRankNormal
from .held_fixed import held_fixed
from .precision import full_precision
from .reparameterized_mixture import ReparameterizedMixture

__all__ = ["ConditionedLowRankNormal", "ReparameterizedMixture", "full_precision", "held_fixed", "kl"]

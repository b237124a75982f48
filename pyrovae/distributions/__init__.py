"""What the families and likelihoods need beyond `pyro.distributions`."""

from .flow import FlowDistribution, moment_noise
from .held_fixed import held_fixed
from .precision import full_precision

__all__ = ["FlowDistribution", "full_precision", "held_fixed", "moment_noise"]

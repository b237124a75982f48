"""Variational families: how a row of parameters λ becomes a distribution q(z | λ)."""

from .base import Family
from .flow import Flow
from .joint import Joint
from .ladder import Ladder
from .location_scale import DiagonalNormal, Laplace, StudentT
from .normal import FullNormal, LowRankNormal, MixtureNormal

__all__ = ["DiagonalNormal", "Family", "Flow", "FullNormal", "Joint", "Ladder", "Laplace"]
__all__ += ["LowRankNormal", "MixtureNormal", "StudentT"]

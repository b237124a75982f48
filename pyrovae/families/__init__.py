"""Variational families: how a row of parameters λ becomes a distribution q(z | λ)."""

from .base import Family
from .diagonal_normal import DiagonalNormal
from .full_normal import FullNormal
from .laplace import Laplace
from .low_rank_normal import LowRankNormal
from .mixture_normal import MixtureNormal
from .student_t import StudentT

__all__ = ["DiagonalNormal", "Family", "FullNormal", "Laplace", "LowRankNormal", "MixtureNormal", "StudentT"]

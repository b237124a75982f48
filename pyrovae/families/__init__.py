"""Variational families: how a row of parameters λ becomes a distribution q(z | λ)."""

from .base import Family
from .diagonal_normal import DiagonalNormal
from .flow import Flow
from .full_normal import FullNormal

__all__ = ["DiagonalNormal", "Family", "Flow", "FullNormal"]

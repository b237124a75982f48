"""Guides: ways to find λ."""

from .amortized import AmortizedGuide
from .base import Guide
from .learned_iterative import LearnedIterativeGuide
from .refined import EncoderLoss, RefinedGuide, SemiAmortizedGuide, SVIGuide

__all__ = [
    "AmortizedGuide", "EncoderLoss", "Guide", "LearnedIterativeGuide", "RefinedGuide", "SVIGuide", "SemiAmortizedGuide",
]  # fmt: skip

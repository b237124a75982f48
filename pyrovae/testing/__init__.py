"""Does what I wrote do what it must? For the tests of your own guides, families, refiners, likelihoods and models."""

from .compare import interpreted
from .contracts import check_guide, check_model, check_refiner
from .densities import check_family, check_likelihood
from .oracle import FixedNoise, Gaps, LinearGaussian, check_finds_posterior, evidence_of_ppca, quadrature

__all__ = [
    "FixedNoise", "Gaps", "LinearGaussian", "check_family", "check_finds_posterior", "check_guide", "check_likelihood",
    "check_model", "check_refiner", "evidence_of_ppca", "interpreted", "quadrature",
]  # fmt: skip

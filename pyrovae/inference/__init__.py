"""Bounds, and loops that improve λ. Sees (model, family, params), never a guide."""

from .annealing import Annealed, Bidirectional, ais, bidirectional
from .elbo import (
    ELBO,
    Objective,
    Terms,
    common_noise,
    common_noise_terms,
    elbo_terms,
    evaluating,
    frozen,
    kl_of_site,
    scored_sites,
)
from .gauss_newton import GaussNewtonRefiner
from .importance import effective_sample_size, iwae, iwae_bounds, log_weights, pareto_k
from .objectives import IWAE, AnalyticELBO
from .optimum import Optimum, optimum, precise_terms
from .refiner import Inferred, Refiner, SVIRefiner
from .simulate import mutual_information, simulate
from .steps import SGD, Adam, AdaptiveStep, Step

__all__ = [
    "ELBO", "IWAE", "SGD", "Adam", "AdaptiveStep", "AnalyticELBO", "Annealed", "Bidirectional",
    "GaussNewtonRefiner", "Inferred", "Objective", "Optimum", "Refiner", "SVIRefiner", "Step", "Terms", "ais",
    "bidirectional", "common_noise", "common_noise_terms", "effective_sample_size", "elbo_terms", "evaluating",
    "frozen", "iwae", "iwae_bounds", "kl_of_site", "log_weights", "mutual_information", "optimum", "pareto_k",
    "precise_terms", "scored_sites", "simulate",
]  # fmt: skip

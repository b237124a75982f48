"""Bounds, and loops that improve λ. Sees (model, family, params), never a guide."""

from .ais import Annealed, ais
from .analytic_elbo import AnalyticELBO
from .bidirectional import Bidirectional, bidirectional
from .compiled_refiner import CompiledRefiner
from .elbo import ELBO, Terms, common_noise, common_noise_terms, elbo_terms
from .encoder_loss import EncoderLoss, encoder_loss
from .frozen import frozen
from .gauss_newton_refiner import GaussNewtonRefiner
from .importance import log_weights
from .importance_diagnostics import effective_sample_size, iwae_bounds, pareto_k
from .iwae import IWAE, iwae
from .mutual_information import mutual_information
from .objective import Objective
from .optimum import Optimum, optimum
from .precise_terms import precise_terms
from .refiner import Inferred, Refiner
from .simulate import simulate
from .svi_refiner import SVIRefiner
from .unrolled_refiner import UnrolledRefiner

__all__ = [
    "ELBO",
    "IWAE",
    "AnalyticELBO",
    "Annealed",
    "Bidirectional",
    "CompiledRefiner",
    "EncoderLoss",
    "GaussNewtonRefiner",
    "Inferred",
    "Objective",
    "Optimum",
    "Refiner",
    "SVIRefiner",
    "Terms",
    "UnrolledRefiner",
    "ais",
    "bidirectional",
    "common_noise",
    "common_noise_terms",
    "effective_sample_size",
    "elbo_terms",
    "encoder_loss",
    "frozen",
    "iwae",
    "iwae_bounds",
    "log_weights",
    "mutual_information",
    "optimum",
    "pareto_k",
    "precise_terms",
    "simulate",
]

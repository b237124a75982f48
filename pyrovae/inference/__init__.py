"""Bounds, and loops that improve λ. Sees (model, family, params), never a guide."""

from .analytic_elbo import AnalyticELBO
from .compiled_refiner import CompiledRefiner
from .elbo import ELBO, Terms, common_noise, common_noise_terms, elbo_terms
from .encoder_loss import EncoderLoss, encoder_loss
from .frozen import frozen
from .gauss_newton_refiner import GaussNewtonRefiner
from .iwae import IWAE, iwae
from .mutual_information import mutual_information
from .objective import Objective
from .refiner import Inferred, Refiner
from .simulate import simulate
from .svi_refiner import SVIRefiner
from .unrolled_refiner import UnrolledRefiner

__all__ = [
    "ELBO",
    "IWAE",
    "AnalyticELBO",
    "CompiledRefiner",
    "EncoderLoss",
    "GaussNewtonRefiner",
    "Inferred",
    "Objective",
    "Refiner",
    "SVIRefiner",
    "Terms",
    "UnrolledRefiner",
    "common_noise",
    "common_noise_terms",
    "elbo_terms",
    "encoder_loss",
    "frozen",
    "iwae",
    "mutual_information",
    "simulate",
]

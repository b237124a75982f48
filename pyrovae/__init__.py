"""Variational autoencoders where the inference scheme is a part you swap."""

from importlib import import_module as _import_module
from typing import Any as _Any

import pyro

# Parameters belong to modules. With Pyro's global store a second model in one process is silently not trained.
pyro.settings.set(module_local_params=True)

from . import data, models, nets
from .capture import engine
from .families import (
    DiagonalNormal,
    Family,
    Flow,
    FullNormal,
    Joint,
    Ladder,
    Laplace,
    LowRankNormal,
    MixtureNormal,
    StudentT,
)
from .guides import AmortizedGuide, Guide, LearnedIterativeGuide, RefinedGuide, SemiAmortizedGuide, SVIGuide
from .inference import (
    ELBO,
    IWAE,
    AnalyticELBO,
    GaussNewtonRefiner,
    Inferred,
    Refiner,
    SVIRefiner,
    elbo_terms,
)
from .models import VAE, HierarchicalVAE

__version__ = "0.1.0"

__all__ = [
    "ELBO",
    "IWAE",
    "VAE",
    "AmortizedGuide",
    "AnalyticELBO",
    "DiagonalNormal",
    "Family",
    "Flow",
    "FullNormal",
    "GaussNewtonRefiner",
    "Guide",
    "HierarchicalVAE",
    "Inferred",
    "Joint",
    "Ladder",
    "Laplace",
    "LearnedIterativeGuide",
    "LitVAE",
    "LowRankNormal",
    "MixtureNormal",
    "RefinedGuide",
    "Refiner",
    "SVIGuide",
    "SVIRefiner",
    "SemiAmortizedGuide",
    "StudentT",
    "data",
    "elbo_terms",
    "engine",
    "evaluate",
    "evaluate_run",
    "fit",
    "load",
    "models",
    "nets",
]

_LAZY = {  # Lightning takes seconds to import
    "LitVAE": ".training",
    "fit": ".runs.fit",
    "load": ".runs.load",
    "evaluate": ".runs.evaluate",
    "evaluate_run": ".runs.evaluate",
}
_PARTS = {*["cli", "comparison", "config", "evaluation", "inspection", "runs", "testing", "training", "validation"]}


def __getattr__(name: str) -> _Any:
    if name in _LAZY:
        return getattr(_import_module(_LAZY[name], __name__), name)
    if name in _PARTS:
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_PARTS, "__version__"})

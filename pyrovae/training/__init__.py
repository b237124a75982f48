"""Training under PyTorch Lightning."""

from .aggressive import AggressiveTraining
from .checkpoint import CheckpointError, read_checkpoint
from .fit import SettingsError, TerminatedError, fit
from .module import LitVAE, NumericsError
from .warmup import CyclicalWarmup, LinearWarmup, Warmup

__all__ = [
    "AggressiveTraining",
    "CheckpointError",
    "CyclicalWarmup",
    "LinearWarmup",
    "LitVAE",
    "NumericsError",
    "SettingsError",
    "TerminatedError",
    "Warmup",
    "fit",
    "read_checkpoint",
]

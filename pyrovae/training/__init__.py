"""Training under PyTorch Lightning."""

from .aggressive import AggressiveTraining
from .checkpoint import CheckpointError, is_of, read_checkpoint
from .checks import check_support
from .fit import SettingsError, TerminatedError, fit
from .module import LitVAE, NumericsError
from .schedules import CyclicalWarmup, LinearWarmup, Schedule
from .start import start_from_data

__all__ = ["AggressiveTraining", "CheckpointError", "CyclicalWarmup", "LinearWarmup", "LitVAE", "NumericsError"]
__all__ += ["Schedule", "SettingsError", "TerminatedError", "check_support", "fit", "is_of", "read_checkpoint"]
__all__ += ["start_from_data"]

"""Pyro programs as compiled graphs. Knows no model, family or guide."""

from .capture import Capture, CaptureWarning, Engine, engine
from .graph import Surroundings, isolated, surroundings

__all__ = ["Capture", "CaptureWarning", "Engine", "Surroundings", "engine", "isolated", "surroundings"]

from .capture import programs_of
from .graph import noise_state, set_noise_state

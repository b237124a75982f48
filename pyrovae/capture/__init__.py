"""Pyro programs as compiled graphs. Knows no model, family or guide."""

from .capture import Capture, CaptureWarning, Engine, Programs, engine, programs_of
from .graph import Surroundings, isolated, noise_state, seed_generators, set_noise_state, surroundings

__all__ = ["Capture", "CaptureWarning", "Engine", "Programs", "Surroundings", "engine", "isolated", "noise_state"]
__all__ += ["programs_of", "seed_generators", "set_noise_state", "surroundings"]

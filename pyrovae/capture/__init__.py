"""Pyro programs as compiled graphs. Knows no model, family or guide."""

from .capture import Capture, CaptureWarning, Engine, Programs, engine, held, programs_of
from .graph import Surroundings, isolated, noise_state, seed_generators, set_noise_state, surroundings

__all__ = ["Capture", "CaptureWarning", "Engine", "Programs", "Surroundings", "engine", "held", "isolated"]
__all__ += ["noise_state", "programs_of", "seed_generators", "set_noise_state", "surroundings"]

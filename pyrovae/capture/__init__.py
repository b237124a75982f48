"""Pyro programs as compiled graphs. Knows no model, family or guide."""

from .capture import Capture, CaptureWarning
from .engine import Engine, engine
from .isolated import Surroundings, isolated, surroundings

__all__ = ["Capture", "CaptureWarning", "Engine", "Surroundings", "engine", "isolated", "surroundings"]

"""Pyro programs as compiled graphs. Knows no model, family or guide."""

from .capture import Capture, CaptureWarning
from .engine import Engine, engine
from .isolated import isolated

__all__ = ["Capture", "CaptureWarning", "Engine", "engine", "isolated"]

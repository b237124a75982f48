"""A user's own arrays: what file formats there are, what arrays are called, and what their shapes mean."""

from .arrays import Arrays

__all__ = ["Arrays"]

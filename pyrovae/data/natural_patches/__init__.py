"""Patches of natural images: the images, what is done to them as a whole, and how patches are cut."""

from .natural_patches import NaturalPatches

__all__ = ["NaturalPatches"]

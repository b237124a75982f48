"""Image sets of torchvision: which there are, what parts and labels they have, and how their images become pixels."""

from .torchvision_sets import Torchvision

__all__ = ["Torchvision"]

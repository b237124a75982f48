"""Plain torch networks; no Pyro.

Positional arguments are shapes, which the builder knows; keyword arguments are what YAML may set.
A class called `...Encoder` or `...Decoder` serves in that role, any other in both.
"""

from .conv import ConvDecoder, ConvEncoder
from .mlp import MLP, CountsEncoder

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "CountsEncoder"]

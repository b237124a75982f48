"""Fully connected network between two event shapes."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from pydantic import PositiveInt
from torch import Tensor, nn

from .activations import Activation, activation_layer


class MLP(nn.Module):
    """Maps `(..., *in_shape)` to `(..., *out_shape)` through dense hidden layers.

    Args:
        in_shape: Event shape of the input; flattened.
        out_shape: Event shape of the output.
        widths: Hidden units of each layer; its length is the depth, and `()` is affine.
        activation: Nonlinearity between the layers.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        widths: Sequence[PositiveInt] = (512, 512),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        sizes = [prod(self.in_shape), *widths, prod(self.out_shape)]
        layers: list[nn.Module] = []
        for size, next_size in pairwise(sizes):
            layers += [nn.Linear(size, next_size), activation_layer(activation)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers(x.flatten(-len(self.in_shape)))
        return h.unflatten(-1, self.out_shape)

"""Fully connected networks."""

from itertools import pairwise
from math import prod
from typing import Literal, get_args

from torch import Tensor, nn
from torch.distributions import constraints

from ..validation import Sizes, validated

Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "softplus"]
_LAYERS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Softplus)


@validated
def activation_layer(name: Activation) -> nn.Module:
    """The layer called `name`.

    >>> activation_layer("tanh")
    Tanh()
    """
    return _LAYERS[get_args(Activation).index(name)]()


class MLP(nn.Module):
    """Maps `(..., *in_shape)` to `(..., *out_shape)` through dense hidden layers.

    Args:
        in_shape, out_shape: Event shapes of input and output.
        widths: Hidden units of each layer; `()` is affine.

    >>> import torch
    >>> MLP((1, 28, 28), (50,), widths=(64,))(torch.zeros(7, 1, 28, 28)).shape
    torch.Size([7, 50])
    """

    @validated
    def __init__(
        self, in_shape: Sizes, out_shape: Sizes, *, widths: Sizes = (512, 512), activation: Activation = "silu"
    ) -> None:
        super().__init__()
        self.in_shape, self.out_shape = tuple(in_shape), tuple(out_shape)
        sizes = [prod(self.in_shape), *widths, prod(self.out_shape)]
        layers: list[nn.Module] = []
        for size, next_size in pairwise(sizes):
            layers += [nn.Linear(size, next_size), activation_layer(activation)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(-len(self.in_shape))).unflatten(-1, self.out_shape)


class CountsEncoder(MLP):
    r"""An `MLP` of log(1 + x), for counts (..., *in_shape): of inputs of hundreds the first loss would be infinite.

    Reference:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018), doi:10.1038/s41592-018-0229-2

    >>> import torch
    >>> CountsEncoder((40,), (10,), widths=(64,))(torch.full((7, 40), 500.0)).shape
    torch.Size([7, 10])
    """

    support = constraints.nonnegative  # of x: where YAML names this encoder, other data are refused

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.log1p())

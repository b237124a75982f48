"""Networks of which output i sees the inputs before i, and the chain of them that a flow is."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..distributions.autoregressive import Autoregressive, Monotone
from ..distributions.flow import FlowDistribution, OnePass
from ..validation import PositiveInt, Sizes, validated


class MADE(nn.Module):
    r"""A masked network, conditioned on a context c, that shapes an autoregressive transform.

    .. math:: h = \mathrm{elu}(W x + b + V c), \qquad r = U (h \odot \tanh G c)

    W and U are masked (one hidden layer shown). By the gate, c = 0 makes r = 0, the identity, whatever the weights are;
    near it the transform is gentle, yet every weight has a gradient as soon as c is not zero.

    Args:
        dim, context_dim: Entries of x, D, and of c.
        monotone: What r shapes, of K numbers for each input.
        widths: Hidden units of each layer; `()` makes r linear in x.

    References:
        MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015), arXiv:1502.03509
        Inference Networks for Sequential Monte Carlo in Graphical Models (Paige & Wood, 2016), arXiv:1602.06701

    >>> from pyrovae.distributions.autoregressive import Affine
    >>> transform = MADE(3, 2, Affine(), widths=(16,))(torch.zeros(7, 2))
    >>> transform(torch.ones(7, 3))[0][0]
    tensor([1., 1., 1.], grad_fn=<SelectBackward0>)
    """

    @validated
    def __init__(self, dim: PositiveInt, context_dim: PositiveInt, monotone: Monotone, widths: Sizes) -> None:
        super().__init__()
        self.monotone = monotone
        # A unit of degree m reads the first m inputs; ascending, from 0 to D - 1.
        self.degrees = tuple(tuple(torch.linspace(0, dim - 1, width).round().int().tolist()) for width in widths)
        inputs = tuple(range(1, dim + 1))
        degrees = [inputs, *self.degrees]
        self.layers = nn.ModuleList(_MaskedLinear(*pair) for pair in pairwise(degrees))
        self.head = _MaskedLinear(degrees[-1], [i - 1 for i in inputs for _ in range(monotone.num_raw)], bias=False)
        self.shift = nn.Linear(context_dim, widths[0], bias=False) if widths else None
        self.gate = nn.Linear(context_dim, len(degrees[-1]), bias=False)

    def forward(self, context: Tensor) -> Autoregressive:
        """The transform for a context (..., C)."""
        modules: Any = self.layers
        layers = [(layer.masked(), layer.bias) for layer in modules]
        if self.shift is not None:
            layers[0] = (layers[0][0], layers[0][1] + self.shift(context))
        head = self.head.masked().unflatten(0, (-1, self.monotone.num_raw))  # (D, K, H)
        return Autoregressive(self.monotone, tuple(layers), head, self.gate(context).tanh(), self.degrees)


class _MaskedLinear(nn.Linear):
    """A layer whose units read those of a degree at most their own."""

    mask: Tensor

    def __init__(self, before: Sequence[int], after: Sequence[int], bias: bool = True) -> None:
        super().__init__(len(before), len(after), bias=bias)
        self.register_buffer("mask", torch.tensor(after)[:, None] >= torch.tensor(before), persistent=False)

    def masked(self) -> Tensor:
        return self.weight * self.mask


NUM_MOMENT_DRAWS = 128  # behind a flow's `mean` and `variance`


class FlowNetworks(nn.ModuleList):
    """The `MADE`s of a flow, which make of (μ, s, c) a `FlowDistribution`.

    Args:
        dim, context_dim, monotone, widths: As in `MADE`.
        num_transforms: Transforms in the chain; the order of entries reverses after each.
        way: The one that takes one pass, `sampling` or `density`; the other takes D.

    >>> from pyrovae.distributions.autoregressive import Affine
    >>> networks = FlowNetworks(3, 2, Affine(), num_transforms=2, widths=(16,), way="sampling")
    >>> networks(torch.zeros(7, 3), torch.ones(7, 3), torch.zeros(7, 2)).sample().shape
    torch.Size([7, 3])
    """

    noise: Tensor

    @validated
    def __init__(
        self, dim: int, context_dim: int, monotone: Monotone, num_transforms: PositiveInt, widths: Sizes, way: OnePass
    ) -> None:
        super().__init__(MADE(dim, context_dim, monotone, widths) for _ in range(num_transforms))
        self.one_pass: OnePass = way
        # Symmetric, of unit variance, and none of the global generator's.
        draws = torch.randn(NUM_MOMENT_DRAWS // 2, dim, generator=torch.Generator().manual_seed(0))
        draws = draws / draws.square().mean(0).sqrt()
        self.register_buffer("noise", torch.cat([draws, -draws]), persistent=False)

    def forward(self, loc: Tensor, scale: Tensor, context: Tensor) -> FlowDistribution:
        """The flow for μ and s (..., D), c (..., C)."""
        transforms = [network(context) for network in self]
        return FlowDistribution(loc, scale, transforms, self.noise, self.one_pass)

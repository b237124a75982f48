"""Networks of which output i sees the inputs before i."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from ..distributions.autoregressive import Autoregressive, Monotone


class MADE(nn.Module):
    r"""A masked network, conditioned on a context c, that shapes an autoregressive transform.

    .. math:: h = \mathrm{elu}(W x + b + V c), \qquad r = U (h \odot \tanh G c)

    W and U are masked (one hidden layer shown). The gate has a purpose: c = 0 makes r = 0, the identity, whatever the
    weights are, and near it the transform is gentle, yet every weight has a gradient as soon as c is not zero.

    Args:
        dim: D, inputs.
        context_dim: C.
        monotone: What r shapes, of K numbers for each input.
        widths: Hidden units of each layer; `()` makes r linear in x.

    References:
        MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015), arXiv:1502.03509
        Inference Networks for Sequential Monte Carlo in Graphical Models (Paige & Wood, 2016), arXiv:1602.06701
    """

    def __init__(self, dim: int, context_dim: int, monotone: Monotone, widths: Sequence[PositiveInt]) -> None:
        super().__init__()
        self.monotone = monotone
        # A unit of degree m reads the first m inputs; ascending, from 0 to D - 1.
        self.degrees = tuple(tuple(torch.linspace(0, dim - 1, width).round().int().tolist()) for width in widths)
        inputs = tuple(range(1, dim + 1))
        sizes = [inputs, *self.degrees]
        self.layers = nn.ModuleList(_MaskedLinear(*pair) for pair in pairwise(sizes))
        self.head = _MaskedLinear(sizes[-1], [i - 1 for i in inputs for _ in range(monotone.num_raw)], bias=False)
        self.shift = nn.Linear(context_dim, widths[0], bias=False) if widths else None
        self.gate = nn.Linear(context_dim, len(sizes[-1]), bias=False)

    def forward(self, context: Tensor) -> Autoregressive:
        """The transform for a context (..., C)."""
        layers: list[tuple[Tensor, Tensor]] = []
        layer: Any
        for layer in self.layers:
            bias = layer.bias if layers or self.shift is None else layer.bias + self.shift(context)
            layers.append((layer.masked(), bias))
        head = self.head.masked().unflatten(0, (-1, self.monotone.num_raw))  # (D, K, H)
        return Autoregressive(self.monotone, tuple(layers), head, self.gate(context).tanh(), self.degrees)


class _MaskedLinear(nn.Linear):
    """A layer whose units read those of a degree at most their own."""

    mask: Tensor

    def __init__(self, before: Sequence[int], after: Sequence[int], bias: bool = True) -> None:
        super().__init__(len(before), len(after), bias=bias)
        self.register_buffer("mask", torch.tensor(after)[:, None] >= torch.tensor(before), persistent=False)

    def masked(self) -> Tensor:
        """The weight, zero where the mask is."""
        return self.weight * self.mask


def made_chain(
    dim: int, context_dim: int, monotone: Monotone, num_transforms: PositiveInt, widths: Sequence[PositiveInt]
) -> nn.ModuleList:
    """The networks of a flow.

    Raises:
        ValueError: A number below 1.
    """
    for name, value in (("num_transforms", num_transforms), ("context_dim", context_dim)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if any(width < 1 for width in widths):
        raise ValueError(f"widths must be >= 1, got {tuple(widths)}; () for linear conditioners")
    return nn.ModuleList(MADE(dim, context_dim, monotone, widths) for _ in range(num_transforms))

"""Strided convolutional encoder and its mirror image."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..validation import Sizes, validated
from .mlp import MLP, Activation, activation_layer


def _halvings(size: int, times: int) -> list[int]:
    """`[size, ceil(size / 2), ...]`: what stride-2 convolutions make of `size`."""
    return [size, *_halvings((size + 1) // 2, times - 1)] if times else [size]


def _check_image(name: str, shape: Sequence[int]) -> None:
    if len(shape) != 3:
        raise ValueError(f"{name} must be (channels, height, width), got {tuple(shape)}; use MLP")


class ConvEncoder(nn.Module):
    """Maps images `(..., C, H, W)` to `(..., *out_shape)`; each convolution halves the image.

    Args:
        in_shape: (C, H, W), any size.
        out_shape: Event shape of the output.
        channels: Channels after each stride-2 convolution.
        widths: Hidden units of the dense layers that follow.
        activation: Nonlinearity between the layers.

    >>> import torch
    >>> ConvEncoder((3, 17, 30), (50,), channels=(8, 16), widths=(32,))(torch.zeros(7, 3, 17, 30)).shape
    torch.Size([7, 50])
    """

    @validated
    def __init__(
        self,
        in_shape: Sizes,
        out_shape: Sizes,
        *,
        channels: Sizes = (32, 64),
        widths: Sizes = (256,),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        _check_image("in_shape", in_shape)
        path = (in_shape[0], *channels)
        layers: list[nn.Module] = []
        for before, after in pairwise(path):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), activation_layer(activation)]
        self.convolutions = nn.Sequential(*layers)
        feature_shape = (path[-1], *(_halvings(size, len(channels))[-1] for size in in_shape[1:]))
        self.head = MLP(feature_shape, out_shape, widths=widths, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        h = self.convolutions(x.reshape(-1, *x.shape[-3:]))
        return self.head(h.reshape(*x.shape[:-3], *h.shape[1:]))


class ConvDecoder(nn.Module):
    """Maps `(..., *in_shape)` to images `(..., C, H, W)`; each transposed convolution doubles.

    Args:
        in_shape: Event shape of the input.
        out_shape: (C, H, W), any size.
        channels: Those of the `ConvEncoder` that it mirrors, so the last comes first here; `widths` likewise.

    >>> import torch
    >>> ConvDecoder((50,), (3, 17, 30), channels=(8, 16), widths=(32,))(torch.zeros(7, 50)).shape
    torch.Size([7, 3, 17, 30])
    """

    @validated
    def __init__(
        self,
        in_shape: Sizes,
        out_shape: Sizes,
        *,
        channels: Sizes = (32, 64),
        widths: Sizes = (256,),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        _check_image("out_shape", out_shape)
        path = (out_shape[0], *channels)[::-1]  # widest first
        heights, breadths = (_halvings(size, len(channels))[::-1] for size in out_shape[1:])  # smallest first
        self.head = MLP(in_shape, (path[0], heights[0], breadths[0]), widths=widths[::-1], activation=activation)
        layers: list[nn.Module] = []
        for i, pair in enumerate(pairwise(path)):
            # A stride-2 transposed convolution makes 2n - 1 pixels; padding adds the one an even size needs.
            padding = heights[i + 1] - 2 * heights[i] + 1, breadths[i + 1] - 2 * breadths[i] + 1
            up = nn.ConvTranspose2d(*pair, 3, stride=2, padding=1, output_padding=padding)
            layers += [activation_layer(activation), up]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        h = self.head(z)  # (..., C, h, w)
        x = self.convolutions(h.reshape(-1, *h.shape[-3:]))
        return x.reshape(*h.shape[:-3], *x.shape[1:])

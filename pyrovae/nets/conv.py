"""Strided convolutional encoder and its mirror image."""

from collections.abc import Sequence

from pydantic import PositiveInt
from torch import Tensor, nn

from .mlp import MLP, Activation, activation_layer


def _halvings(size: int, times: int) -> list[int]:
    """`[size, ceil(size / 2), ...]`: what stride-2 convolutions make of `size`."""
    sizes = [size]
    for _ in range(times):
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


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
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: Sequence[PositiveInt] = (32, 64),
        widths: Sequence[PositiveInt] = (256,),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        _check_image("in_shape", in_shape)
        num_channels, height, width = in_shape
        layers: list[nn.Module] = []
        for before, after in zip((num_channels, *channels), channels):  # noqa: B905 - one shorter
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), activation_layer(activation)]
        self.convolutions = nn.Sequential(*layers)
        last = (num_channels, *channels)[-1]
        feature_shape = (last, _halvings(height, len(channels))[-1], _halvings(width, len(channels))[-1])
        self.head = MLP(feature_shape, out_shape, widths=widths, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        h = self.convolutions(x.reshape(-1, *x.shape[-3:]))
        return self.head(h.reshape(*x.shape[:-3], *h.shape[1:]))


class ConvDecoder(nn.Module):
    """Maps `(..., *in_shape)` to images `(..., C, H, W)`; each transposed convolution doubles.

    Args:
        in_shape: Event shape of the input.
        out_shape: (C, H, W), any size.
        channels: Channels of the mirrored encoder, so the last is the widest and comes first here.
        widths: Hidden units of the mirrored encoder's dense layers.
        activation: Nonlinearity between the layers.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_shape: Sequence[int],
        *,
        channels: Sequence[PositiveInt] = (32, 64),
        widths: Sequence[PositiveInt] = (256,),
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        _check_image("out_shape", out_shape)
        num_channels, height, width = out_shape
        path = (num_channels, *channels)[::-1]  # widest first
        heights = _halvings(height, len(channels))[::-1]
        breadths = _halvings(width, len(channels))[::-1]
        self.head = MLP(in_shape, (path[0], heights[0], breadths[0]), widths=widths[::-1], activation=activation)
        layers: list[nn.Module] = []
        for i in range(len(channels)):
            # A stride-2 transposed convolution makes 2n - 1 pixels; padding adds the one an even size needs.
            padding = (heights[i + 1] - 2 * heights[i] + 1, breadths[i + 1] - 2 * breadths[i] + 1)
            layers += [
                activation_layer(activation),
                nn.ConvTranspose2d(path[i], path[i + 1], 3, stride=2, padding=1, output_padding=padding),
            ]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        h = self.head(z)  # (..., C, h, w)
        x = self.convolutions(h.reshape(-1, *h.shape[-3:]))
        return x.reshape(*h.shape[:-3], *x.shape[1:])

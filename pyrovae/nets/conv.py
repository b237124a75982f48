"""Strided convolutional encoder and its mirror image."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..validation import Sizes, validated
from .mlp import MLP, Activation, activation_layer


def _halvings(name: str, shape: Sequence[int], times: int) -> list[tuple[int, ...]]:
    """Heights and widths of an image: whole, and after each of `times` stride-2 convolutions."""
    if len(shape) != 3:
        raise ValueError(f"{name} must be (channels, height, width), got {tuple(shape)}; use MLP")
    return [tuple(-(-size // 2**i) for size in shape[1:]) for i in range(times + 1)]


class ConvEncoder(nn.Module):
    """Maps images `(..., C, H, W)` of any size to `(..., *out_shape)`; each convolution halves the image.

    Args:
        in_shape, out_shape: (C, H, W), and the event shape of the output.
        channels: Channels after each stride-2 convolution.
        widths: Hidden units of the dense layers that follow.

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
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        path, sizes = (in_shape[0], *channels), _halvings("in_shape", in_shape, len(channels))
        layers: list[nn.Module] = []
        for pair in pairwise(path):
            layers += [nn.Conv2d(*pair, 3, stride=2, padding=1), activation_layer(activation)]
        self.convolutions = nn.Sequential(*layers)
        self.head = MLP((path[-1], *sizes[-1]), out_shape, widths=widths, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        h = self.convolutions(x.reshape(-1, *x.shape[-3:]))
        return self.head(h.reshape(*x.shape[:-3], *h.shape[1:]))


class ConvDecoder(nn.Module):
    """Maps `(..., *in_shape)` to images `(..., C, H, W)` of any size; each transposed convolution doubles.

    Args:
        in_shape, out_shape: Event shape of the input, and (C, H, W).
        channels, widths: Those of the `ConvEncoder` that it mirrors, so the last comes first here.

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
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        path, sizes = (out_shape[0], *channels)[::-1], _halvings("out_shape", out_shape, len(channels))[::-1]
        self.head = MLP(in_shape, (path[0], *sizes[0]), widths=widths[::-1], activation=activation)
        layers: list[nn.Module] = []
        for pair, small, large in zip(pairwise(path), sizes, sizes[1:], strict=False):
            # A stride-2 transposed convolution makes 2n - 1 pixels; padding adds the one an even size needs.
            padding = large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1
            up = nn.ConvTranspose2d(*pair, 3, stride=2, padding=1, output_padding=padding)
            layers += [activation_layer(activation), up]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        h = self.head(z)  # (..., C, h, w)
        x = self.convolutions(h.reshape(-1, *h.shape[-3:]))
        return x.reshape(*h.shape[:-3], *x.shape[1:])

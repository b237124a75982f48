"""Other views of training images."""

from dataclasses import dataclass

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from . import draws
from .errors import DataError


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Flips and shifts images, each by draws of its own: x'[v, u] = x[v - dv, u - du], with x mirrored before or not.

    Called with images (B, C, H, W) of any type, a key of draws and the images' numbers (B,). A view is a function of
    key and number alone.

    `flip` mirrors left and right with probability 1/2; dv and du are any of -`shift` ... `shift` pixels, all alike;
    pixels of the edge are repeated. A `DataError` of a negative shift.

    Reference:
        A survey on image data augmentation for deep learning (Shorten & Khoshgoftaar, 2019),
        doi:10.1186/s40537-019-0197-0

    >>> Augmentation(shift=1)(torch.eye(3)[None, None], 0, torch.tensor([5])).shape
    torch.Size([1, 1, 3, 3])
    """

    flip: bool = False
    shift: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise DataError(f"augment.shift must be >= 0, got {self.shift}")

    def __call__(self, raw: Tensor, key: int, numbers: Tensor) -> Tensor:
        if not self:
            return raw
        # Three draws, whatever is asked for: with the flip turned on, shifts stay the same.
        mirrored, places = draws.uniform(key, numbers, 3).split([1, 2], dim=1)  # (B, 1), (B, 2)
        by = (places * (2 * self.shift + 1)).long() - self.shift
        height, width = raw.shape[2:]
        rows = (torch.arange(height, device=raw.device) - by[:, :1]).clamp_(0, height - 1)  # (B, H)
        columns = (torch.arange(width, device=raw.device) - by[:, 1:]).clamp_(0, width - 1)  # (B, W)
        if self.flip:
            columns = torch.where(mirrored < 0.5, width - 1 - columns, columns)
        pixels = (rows[:, :, None] * width + columns[:, None]).flatten(1)  # (B, H W)
        return raw.flatten(2).gather(2, pixels[:, None].expand(-1, raw.shape[1], -1)).view(raw.shape)

    def __bool__(self) -> bool:
        return self.flip or self.shift > 0

    def __str__(self) -> str:
        shift = f"shifted by up to {self.shift} pixel{'s' * (self.shift > 1)} each way" if self.shift else ""
        return " and ".join(filter(None, ["mirrored or not" if self.flip else "", shift])) or "none"

    def check(self, name: str, x_shape: tuple[int, ...]) -> None:
        """Raises `DataError` for a data set that this cannot be for."""
        if len(x_shape) != 3:
            raise DataError(f"{name}: augment is for images (C, H, W), and x is {x_shape}; leave dataset.augment out")
        if self.shift >= min(x_shape[1:]):
            pixels = f"the images' {x_shape[1]} x {x_shape[2]} pixels"
            raise DataError(f"{name}: augment.shift {self.shift} is no less than {pixels}; lower it")

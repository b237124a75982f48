"""Arrays of images, whichever index is the channel's."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ..errors import DataError
from ..rows import Rows

Layout = Literal["auto", "channels_first", "channels_last"]

_COLOURS = (1, 3)  # sizes that a last index must have to be taken for that of channels
_MOST_CHANNELS = 4  # that a first index may have, for doubt


def image_layout(what: str, shape: Sequence[int], layout: Layout) -> Layout:
    """Which of the two that is, where (N, ?, ?, ?) tells.

    Raises:
        DataError: It could be either.
    """
    if layout != "auto" or len(shape) == 3:
        return layout
    _, first, _, last = shape
    if last in _COLOURS and first <= _MOST_CHANNELS:
        raise DataError(
            f"{what}: shape {tuple(shape)} may be (N, C, H, W) or (N, H, W, C); set dataset.layout to channels_first "
            "or channels_last"
        )
    return "channels_last" if last in _COLOURS else "channels_first"


class AsImages(Rows):
    """Rows (N, H, W), (N, C, H, W) or (N, H, W, C) as images (N, C, H, W).

    Args:
        rows: They.
        layout: Of rows of four indices.
    """

    def __init__(self, rows: Rows, layout: Layout) -> None:
        self.rows, self.dtype, self.at_hand, self.place = rows, rows.dtype, rows.at_hand, rows.place
        self.last = len(rows.shape) == 4 and layout == "channels_last"
        n, *shape = rows.shape
        if len(shape) == 2:
            shape = [1, *shape]
        elif self.last:
            shape = [shape[2], *shape[:2]]
        self.shape = (n, *shape)

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        raw = self.rows.read(numbers, epoch)
        return raw.permute(0, 3, 1, 2).contiguous() if self.last else raw.view(-1, *self.shape[1:])

    def origin(self, numbers: Tensor) -> Tensor:
        return self.rows.origin(numbers)

"""Pixels of the items of torchvision's sets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..decoding.pictures import Color, Crop, pixels
from ..errors import DataError

_GREY = {"1", "L", "LA", "La"}
_LOOKS = 5  # at items of a part, to see what they are like


def some(images: Any) -> list[int]:
    """Numbers of a few items, the first and the last among them."""
    return sorted({round(place) for place in np.linspace(0, len(images) - 1, min(_LOOKS, len(images)))})


def _item(images: Any, part: str, number: int) -> Image.Image:
    try:
        image = images[number][0]
        if isinstance(image, Image.Image):
            image.load()
            return image
    except MemoryError:
        raise
    except Exception as error:  # as `read_picture` has it
        raise DataError(f"cannot read {part} image {number} ({error}); mend or remove it") from error
    raise DataError(f"{part} item {number} is {type(image).__name__} and no image; this set cannot be used")


def wanted(
    parts: Mapping[str, Any], image_size: int | None, color: Color | None, crop: Crop, on_bad: str
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """How images shall be read, what was left open filled in from some of them, and the shape (C, H, W) that they get.

    Raises:
        DataError: One of them is damaged, or they differ in size and `image_size` is open.
    """
    name, found = type(parts["train"]).__name__, []
    for part, images in parts.items():
        for number in some(images):
            try:
                found.append(_item(images, part, number))
            except DataError as error:
                if on_bad == "error":
                    raise DataError(f"{name}: {error}") from error
    if not found:
        raise DataError(f"{name}: none of the images that were tried can be read")
    if color is None:
        color = "grey" if all(image.mode in _GREY or image.mode[0] in "IF" for image in found) else "rgb"
    shapes = {pixels(image, image_size=image_size, color=color, crop=crop).shape for image in found}
    if len(shapes) > 1:
        sizes = " and ".join(f"{height} × {width}" for _, height, width in sorted(shapes)[:2])
        raise DataError(f"{name}: images are of unlike size, {sizes} say; set dataset.image_size, 64 say")
    return {"image_size": image_size, "color": color, "crop": crop}, shapes.pop()


def read_item(
    item: tuple[str, int],
    *,
    parts: Mapping[str, Any],
    shape: tuple[int, ...],
    image_size: int | None,
    color: Color,
    crop: Crop,
) -> np.ndarray:
    """Pixels uint8 (C, H, W) of an image, named by its part and its number there.

    Raises:
        DataError: It is damaged, or not of `shape`.
    """
    part, number = item
    image = _item(parts[part], part, number)
    values = pixels(image, image_size=image_size, color=color, crop=crop)
    if values.shape != shape:
        size, others = (f"{height} × {width}" for _, height, width in (values.shape, shape))
        raise DataError(f"{part} image {number} is {size} and others are {others}; set dataset.image_size")
    return values


def held_pixels(parts: Sequence[Any]) -> Tensor | None:
    """uint8 (N, C, H, W) of all parts that these hold in memory as `.data`, if it is indeed what their items show."""
    held = [_held(images) for images in parts]
    return None if any(values is None for values in held) else torch.cat(held).contiguous()  # type: ignore[arg-type]


def _held(images: Any) -> Tensor | None:
    data = getattr(images, "data", None)
    if not isinstance(data, np.ndarray | Tensor) or data.ndim not in (3, 4) or len(data) != len(images):
        return None
    values = torch.as_tensor(data)
    if values.dtype != torch.uint8:
        return None
    first = torch.from_numpy(np.atleast_3d(np.array(images[0][0]))).permute(2, 0, 1)
    orders = [values[:, None]] if values.dim() == 3 else [values, values.permute(0, 3, 1, 2)]
    return next((seen for seen in orders if torch.equal(seen[0], first)), None)

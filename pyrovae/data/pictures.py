"""One picture file to pixels."""

import os
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import DataError

Color = Literal["grey", "rgb"]
Crop = Literal["center", "none"]

_16_BITS_AS_32 = {"PNG", "PPM"}  # formats whose 16 bits Pillow opens with mode I
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})


def picture_files(folder: Path) -> list[Path]:
    """The pictures below a folder, at any depth, sorted; an upper-case extension counts, what is hidden does not."""
    seen, files = set(), []
    for where, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        about = os.stat(where)
        if (about.st_dev, about.st_ino) in seen:  # a link that leads round
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if name[0] != ".")
        shown = (name for name in names if name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES)
        files += [os.path.join(where, name) for name in shown]
    return [Path(file) for file in sorted(files, key=lambda file: file.split(os.sep))]


def _raise(error: OSError) -> None:
    raise error


def read_picture(file: Path, *, image_size: int | None, color: Color = "grey", crop: Crop = "center") -> np.ndarray:
    """Pixels of a file, uint8 (C, H, W): `pixels` of it. JPEG, PNG, TIFF and others, of any mode.

    Raises:
        DataError: It is damaged, cut short, no picture, or one of floats or of 32 bits, whose white nobody knows.
    """
    try:
        with Image.open(file) as opened:
            if image_size is not None:  # lets the JPEG decoder skip detail that shrinking would throw away
                opened.draft("RGB", (image_size, image_size))
            return pixels(opened, image_size=image_size, color=color, crop=crop)
    except MemoryError:
        raise
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    except Exception as error:  # damage has many names in Pillow, and not all are OSErrors
        reason = "not a format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"cannot read {file} ({reason}); mend or remove it") from error


def pixels(image: Image.Image, *, image_size: int | None, color: Color = "grey", crop: Crop = "center") -> np.ndarray:
    """Pixels of a picture, uint8 (C, H, W); 16 bits are reduced to 8, an orientation tag is obeyed.

    Args:
        image: Grey, RGB, CMYK, palette, with or without alpha.
        image_size: Height and width in pixels; None leaves them as they are.
        color: One channel or three.
        crop: `center` scales the shorter side and cuts the centre out, `none` squeezes the whole picture in.
    """
    if image.mode == "F" or (image.mode == "I" and image.format not in _16_BITS_AS_32):
        what = "floats" if image.mode == "F" else "signed or 32-bit values"
        raise DataError(f"picture holds {what}; save it with 8 or 16 bits, or as an array for data set arrays")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # converting 16 bits as PIL does would clip at 255
        values = np.asarray(image, dtype=np.float64) / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    image = image.convert("L" if color == "grey" else "RGB")
    if image_size is not None and crop == "center":
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BOX)
    elif image_size is not None:
        image = image.resize((image_size, image_size), Image.Resampling.BOX)
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)

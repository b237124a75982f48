"""Photographs of scenes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from tqdm.auto import tqdm

from .base import Binarize, DataError, ImageData, check_holdouts


def SUN397(  # noqa: N802 - named as the data set is
    *,
    root: str = "data/SUN397",
    image_size: PositiveInt = 32,
    color: Literal["grey", "rgb"] = "grey",
    val_fraction: PositiveFloat = 0.1,
    test_fraction: PositiveFloat = 0.1,
    binarize: Binarize = "none",
    seed: int = 0,
    num_workers: NonNegativeInt = 2,
) -> ImageData:
    """SUN397: 108,754 photographs of 397 scene classes, here cropped square and shrunk.

    Args:
        root: Folder with the data set's own tree: `a/abbey/sun_*.jpg`, `o/outdoor/...`, at any depth.
        image_size: Height and width in pixels, after scaling the shorter side and cropping the centre.
        color: One channel or three.
        val_fraction, test_fraction: Of all images; the split is a seeded shuffle.
        binarize: `none` gives values in [0, 1].
        seed: Of the split.
        num_workers: Threads that decode.

    Raises:
        DataError: No folder, no images in it, or an image that cannot be read.

    Reference:
        SUN database: Large-scale scene recognition from abbey to zoo (Xiao et al., 2010), doi:10.1109/CVPR.2010.5539970
    """
    folder = Path(root)
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg")) if folder.is_dir() else []
    if not files:
        what = "holds no .jpg files" if folder.is_dir() else "does not exist"
        raise DataError(
            f"SUN397: {folder.resolve()} (dataset.root) {what}; torchvision's download of it is dead, so get "
            "SUN397.tar.gz from vision.princeton.edu/projects/2010/SUN, unpack it, and set dataset.root to its "
            "SUN397 folder"
        )
    num_val, num_test = (max(1, round(len(files) * f)) for f in (val_fraction, test_fraction))
    check_holdouts("SUN397", len(files), num_val=num_val, num_test=num_test)
    images = _decode(files, image_size, color, num_workers)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed))
    scenes = [f.parent.relative_to(folder).as_posix() for f in files]
    names = {scene: number for number, scene in enumerate(sorted(set(scenes)))}
    labels = torch.tensor([names[scene] for scene in scenes])
    rows = order.split([len(files) - num_val - num_test, num_val, num_test])
    parts = dict(zip(("train", "val", "test"), rows, strict=True))
    return ImageData(
        "sun397",
        f"{len(files)} images of {len(names)} classes in {folder}",
        **{split: images[r] for split, r in parts.items()},
        binarize=binarize,
        seed=seed,
        labels={split: labels[r] for split, r in parts.items()},
        class_names=tuple(names),
    )


def _decode(files: list[Path], size: int, color: str, num_workers: int) -> Tensor:
    def read(file: Path) -> np.ndarray:
        try:
            with Image.open(file) as image:
                image.draft("RGB", (size, size))  # lets the JPEG decoder skip detail that shrinking would throw away
                small = ImageOps.fit(
                    image.convert("L" if color == "grey" else "RGB"), (size, size), Image.Resampling.BOX
                )
        except (OSError, SyntaxError) as error:  # PIL reports some damage as SyntaxError
            raise DataError(f"SUN397: cannot read {file} ({error}); mend or remove it") from error
        return np.atleast_3d(np.array(small)).transpose(2, 0, 1)

    images = torch.empty(len(files), 1 if color == "grey" else 3, size, size, dtype=torch.uint8)
    with ThreadPoolExecutor(max(1, num_workers)) as pool:  # PIL releases the interpreter lock while it decodes
        decoded = pool.map(read, files)
        for i, image in enumerate(tqdm(decoded, "decoding SUN397", len(files), unit="image", disable=None)):
            images[i] = torch.from_numpy(image)
    return images

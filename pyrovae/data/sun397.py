"""Photographs of scenes."""

from functools import partial
from pathlib import Path

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from .dataset import Binarize, Dataset
from .decoding import OnBad, decoded
from .errors import DataError
from .pictures import Color, Crop, picture_files, read_picture
from .splits import stratified


def SUN397(  # noqa: N802 - named as the data set is
    *,
    root: str = "data/SUN397",
    image_size: PositiveInt = 32,
    color: Color = "grey",
    crop: Crop = "center",
    val_fraction: PositiveFloat = 0.1,
    test_fraction: PositiveFloat = 0.1,
    binarize: Binarize = "none",
    cache: bool | str = True,
    on_bad: OnBad = "error",
    seed: int = 0,
    num_workers: NonNegativeInt = 2,
) -> Dataset:
    """SUN397: 108,754 photographs of 397 scene classes, here cropped square and shrunk.

    Args:
        root: Folder with the data set's own tree: `a/abbey/sun_*.jpg`, `o/outdoor/...`, at any depth.
        image_size: Height and width in pixels.
        color: One channel or three.
        crop: `center` scales the shorter side and cuts the centre out, `none` squeezes the whole picture in.
        val_fraction, test_fraction: Of all images, class by class.
        binarize: `none` gives values in [0, 1].
        cache: Decode once, into a folder; `false` decodes anew in every epoch.
        on_bad: Whether a damaged file is an error or left out.
        seed: Of the split.
        num_workers: Threads that decode.

    Raises:
        DataError: No folder, no images in it, or an image that cannot be read.

    Reference:
        SUN database: Large-scale scene recognition from abbey to zoo (Xiao et al., 2010), doi:10.1109/CVPR.2010.5539970
    """
    folder = Path(root)
    files = picture_files(folder) if folder.is_dir() else []
    if not files:
        what = "holds no pictures" if folder.is_dir() else "does not exist"
        raise DataError(
            f"SUN397: {folder.resolve()} (dataset.root) {what}; torchvision's download of it is dead, so get "
            "SUN397.tar.gz from vision.princeton.edu/projects/2010/SUN, unpack it, and set dataset.root to its "
            "SUN397 folder"
        )
    how = {"image_size": image_size, "color": color, "crop": crop}
    rows, good = decoded(
        "SUN397",
        files,
        partial(read_picture, image_size=image_size, color=color, crop=crop),
        shape=(1 if color == "grey" else 3, image_size, image_size),
        settings=how,
        cache=cache,
        on_bad=on_bad,
        num_workers=num_workers,
    )
    scenes = [files[i].parent.relative_to(folder).as_posix() for i in good.tolist()]
    names = {scene: number for number, scene in enumerate(sorted(set(scenes)))}
    labels = torch.tensor([names[scene] for scene in scenes])
    parts = stratified("SUN397", labels, seed, val_fraction=val_fraction, test_fraction=test_fraction)
    return Dataset.parted(
        "sun397",
        f"{len(good)} images of {len(names)} classes in {folder}",
        rows.subset(good),
        parts,
        labels,
        binarize=binarize,
        seed=seed,
        class_names=tuple(names),
        num_workers=num_workers,
    )

"""Pictures of one's own."""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from .dataset import SPLITS, Binarize, Dataset, remembered
from .decoding.decoding import OnBad
from .decoding.picture_tree import Pictures, PictureTree, hold_out
from .decoding.pictures import Color, Crop
from .errors import DataError

_SPLIT_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "test": "test"}


@remembered
def ImageFolder(  # noqa: N802 - as torchvision's
    *,
    root: str,
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
    """Any pictures below a folder. Sub-folders are classes, at any depth; with none there are no labels.

    Folders train, val (or valid) and test right below `root` are the splits; what is missing of val and test is taken
    from train. Without folder train, all pictures are split at random.

    Args:
        root: The folder.
        image_size: Height and width in pixels.
        color: One channel or three.
        crop: `center` scales the shorter side and cuts the centre out, `none` squeezes the whole picture in.
        val_fraction, test_fraction: Of all images, or of those in folder train, class by class.
        binarize: `none` gives values in [0, 1].
        cache: Decode once, into the folder of that name, or the user's; `false` decodes anew in every epoch.
        on_bad: Whether a damaged file is an error or left out.
        seed: Of the split.
        num_workers: Threads that decode, and read batches ahead.

    Raises:
        DataError: No folder, no pictures in it, one that cannot be read, or pictures beside the folders of splits.
        OSError: No room for the cache, or its folder cannot be written.
    """
    folder = Path(root)
    tree = PictureTree.below(folder)
    if not tree.files:
        what = "holds no pictures" if folder.is_dir() else "does not exist"
        raise DataError(f"ImageFolder: {folder.resolve()} (dataset.root) {what}; name a folder of pictures")
    pictures = Pictures(image_size, color, crop, binarize, cache, on_bad, seed, num_workers)
    given = _folders_of_splits(tree)

    def split(labels: Tensor) -> Sequence[Tensor]:
        parts = given or {"train": torch.arange(len(labels))}
        fractions = {"val": val_fraction, "test": test_fraction}
        missing = [name for name in fractions if name not in parts]
        if missing:
            wanted = {f"{name}_fraction": fractions[name] for name in missing}
            taken = hold_out("ImageFolder", parts["train"], labels, seed, **wanted)
            parts = {**parts, **dict(zip(["train", *missing], taken, strict=True))}
        return [parts[name] for name in SPLITS]

    if given is None:
        return pictures.dataset("image_folder", "ImageFolder", tree, tree.folders, split, "split at random")
    classes = [path.partition("/")[2] or "." for path in tree.folders]
    return pictures.dataset("image_folder", "ImageFolder", tree, classes, split, "split by its folders")


def _folders_of_splits(tree: PictureTree) -> dict[str, Tensor] | None:
    """Numbers of the pictures of each split that has a folder; None if classes are all that folders tell."""
    tops = [path.partition("/")[0] for path in tree.folders]
    splits, others = set(tops) & _SPLIT_OF_FOLDER.keys(), sorted(set(tops) - _SPLIT_OF_FOLDER.keys())
    if "train" not in splits or (splits == {"train"} and others):  # a class of trains among others
        return None
    if others:
        beside = tree.files[tops.index(others[0])]
        raise DataError(f"ImageFolder: {tree.folder} has folder train, and {beside} beside it; move one of them away")
    of = [_SPLIT_OF_FOLDER[top] for top in tops]
    return {name: torch.tensor([n for n, split in enumerate(of) if split == name]) for name in SPLITS if name in of}

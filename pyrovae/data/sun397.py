"""Photographs of scenes."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from .dataset import Binarize, Dataset, remembered
from .decoding.decoding import OnBad
from .decoding.picture_tree import Pictures, PictureTree, hold_out
from .decoding.pictures import Color, Crop
from .errors import DataError
from .partitions import Partition, listed, partition_lists
from .splits import stratified


@remembered
def SUN397(  # noqa: N802 - named as the data set is
    *,
    root: str = "data/SUN397",
    image_size: PositiveInt = 32,
    color: Color = "grey",
    crop: Crop = "center",
    partition: Partition = "auto",
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
        partition: One of the ten official ones, of 50 training and 50 test images a class, by the lists
            `Training_01.txt` and `Testing_01.txt`, in `root`, in its `Partitions` or beside it; `none` splits all
            images at random; `auto` takes the first partition if its lists are there.
        val_fraction: Of the training list, or of all images, class by class.
        test_fraction: Of all images, class by class, where there is no list.
        binarize: `none` gives values in [0, 1].
        cache: Decode once, into the folder of that name, or the user's; `false` decodes anew in every epoch.
        on_bad: Whether a damaged file is an error or left out.
        seed: Of the split.
        num_workers: Threads that decode, and read batches ahead.

    Raises:
        DataError: No folder, no images in it, an image that cannot be read, or lists that do not fit.
        OSError: No room for the cache, or its folder cannot be written.

    Reference:
        SUN database: Large-scale scene recognition from abbey to zoo (Xiao et al., 2010), doi:10.1109/CVPR.2010.5539970
    """
    folder = Path(root)
    tree = PictureTree.below(folder)
    if not tree.files:
        what = "holds no pictures" if folder.is_dir() else "does not exist"
        raise DataError(
            f"SUN397: {folder.resolve()} (dataset.root) {what}; torchvision's download of it is dead, so get "
            "SUN397.tar.gz from vision.princeton.edu/projects/2010/SUN, unpack it, and set dataset.root to its "
            "SUN397 folder"
        )
    lists = partition_lists(folder, partition)
    train_and_test = listed(lists, folder, tree.files) if lists else None

    def split(labels: Tensor) -> Sequence[Tensor]:
        if train_and_test is None:
            return stratified("SUN397", labels, seed, val_fraction=val_fraction, test_fraction=test_fraction)
        train, test = train_and_test
        return *hold_out("SUN397", train, labels, seed, val_fraction=val_fraction), test

    pictures = Pictures(image_size, color, crop, binarize, cache, on_bad, seed, num_workers)
    how_split = f"split by {lists[0].name} and {lists[1].name}" if lists else "split at random"
    return pictures.dataset("sun397", "SUN397", tree, tree.folders, split, how_split)

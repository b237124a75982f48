"""Patches of natural images: which images, what is done to them as a whole, and how patches are cut."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from . import draws
from .dataset import SPLITS, Dataset, remembered
from .decoding import OnBad, decoded
from .errors import DataError
from .image_filters import Filter, Intensity, intensities, local_contrast, olshausen_field
from .image_folders import Parts, all_splits, folders_of_splits, pictures_below
from .normalization import Scaled, Tabulated
from .pictures import read_picture
from .rows import Held, Mapped, Rows, chunks

_CROPS = 4  # a stream of draws; those before are of a data set and of batches
_CANDIDATES = 8  # places that a patch may be cut from, if its variance counts
_LOOKED_AT = 256  # training patches, of which one must have the least variance
_MEASURED = 1000  # images at most that say how strong filtered images are

# Of what two packages carry, all that shows a scene as an eye would see it, and one of a stereo pair only.
_PHOTOGRAPHS = {
    ("skimage", "data"): "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png "
    "motorcycle_left.png rocket.jpg",
    ("sklearn", "datasets/images"): "china.jpg flower.jpg",
}


@remembered
def NaturalPatches(  # noqa: N802 - named as the data set is
    *,
    source: Literal["photographs", "folder"] = "photographs",
    root: str | None = None,
    patch_size: PositiveInt = 16,
    num_train: PositiveInt = 50_000,
    num_val: PositiveInt = 5_000,
    num_test: PositiveInt = 5_000,
    image_size: PositiveInt = 256,
    intensity: Intensity = "log",
    filter: Filter = "olshausen_field",
    cutoff: PositiveFloat = 0.39,
    surround: PositiveFloat = 4.0,
    min_variance: NonNegativeFloat = 0.0,
    val_fraction: PositiveFloat = 0.15,
    test_fraction: PositiveFloat = 0.15,
    cache: bool | str = True,
    on_bad: OnBad = "error",
    seed: int = 0,
    num_workers: NonNegativeInt = 2,
) -> Dataset:
    """Grey patches of natural images, cut at random, in other places in each epoch; validation and test patches stay.

    Splits are of images: none gives patches to two of them. `groups` has the number of each patch's image: those of one
    are alike, and a standard error over patches is too small. Filtered images are divided by one number, their root
    mean square over training images: x has variance 1 there. Unfiltered ones stay in [0, 1].

    >>> data = NaturalPatches(image_size=64, num_train=100, num_val=20, num_test=20, cache=False)
    >>> data.take("val")[0].shape, len(data.groups["val"].unique())
    (torch.Size([20, 1, 16, 16]), 2)

    Args:
        source: `photographs` are the 12 inside the scikit-image and scikit-learn packages; `folder` is `root`.
        root: Folder of pictures, at any depth; SUN397's own tree is one. Folders train, val (or valid) and test right
            below it are the splits; what is missing of val and test is taken from train.
        patch_size: Height and width of a patch in pixels.
        num_train, num_val, num_test: Patches; of training, in an epoch.
        image_size: Pictures' shorter side is scaled to so many pixels, and the square in the middle is cut out;
            smaller pictures are bad ones.
        intensity: `grey` values as in the file, `linear` light, or its `log`, each from 0 to 1; see `intensities`.
        filter: Of whole images: `none`, `olshausen_field` flattens the spectrum, `local_contrast` normalises.
        cutoff: f₀ of `olshausen_field` in cycles a pixel, after scaling; the Nyquist frequency is 0.5.
        surround: Standard deviation of the window of `local_contrast` in pixels.
        min_variance: Least variance of x over a patch; one below it is cut elsewhere, 8 times at most.
        val_fraction, test_fraction: Of all images, where they have no folder of their own; at least one each.
        cache: Decode and filter once, into a folder; `false` does so anew whenever patches are cut.
        on_bad: Whether a damaged or too small picture is an error or left out.
        seed: Of the split and of where patches are cut.
        num_workers: Threads that decode, and cut ahead.

    Raises:
        DataError: No folder, no or too few pictures in it, a bad one, or patches larger than images.

    References:
        Emergence of simple-cell receptive field properties by learning a sparse code for natural images (Olshausen &
        Field, 1996), doi:10.1038/381607a0; and as `intensities`, `olshausen_field` and `local_contrast` say.
    """
    files, parts = _sources(source, root)
    told = {"olshausen_field": {"cutoff": cutoff}, "local_contrast": {"surround": surround}}.get(filter, {})
    # The intensity of unfiltered images is a look-up in a table, which needs no copy of them.
    settings = {} if filter == "none" else {"intensity": intensity, **told}
    images, good = decoded(
        "NaturalPatches",
        files,
        partial(_read, image_size=image_size, intensity=intensity, filter=filter, how=told),
        shape=(1, image_size, image_size),
        settings={"image_size": image_size, "filter": filter, **settings},
        dtype="uint8" if filter == "none" else "float16",
        cache=cache,
        on_bad=on_bad,
        num_workers=num_workers,
    )
    alike, fractions = torch.zeros(len(files), dtype=torch.int64), {"val": val_fraction, "test": test_fraction}
    numbers = all_splits("NaturalPatches", parts, alike, seed, fractions, good)
    of_split = dict(zip(SPLITS, numbers, strict=True))
    for split, part in of_split.items():
        if len(part) == 0:
            raise DataError(f"NaturalPatches: no picture of the {split} split can be read; use more pictures")
    preprocess = _preprocess(filter, intensity, images.subset(of_split["train"][:_MEASURED]))
    how: dict[str, Any] = {"min_variance": min_variance, "preprocess": preprocess}
    train, val, test = (
        Patches(images, part, num, patch_size, key=draws.key(seed, _CROPS, i), anew=i == 0, **how)
        for i, (part, num) in enumerate(zip(of_split.values(), (num_train, num_val, num_test), strict=True))
    )
    if min_variance > 0:
        most = train.variances(train.read(torch.arange(min(num_train, _LOOKED_AT)))).max()
        if most < min_variance:
            what = f"above that of every patch looked at, {most:.3g} at most"
            raise DataError(f"NaturalPatches: dataset.min_variance {min_variance:g} is {what}; lower it")
    where = f"pictures in {root}" if source == "folder" else "photographs inside scikit-image and scikit-learn"
    counts = ", ".join(f"{len(part)} in {split}" for split, part in of_split.items())
    what = f"{patch_size} x {patch_size} patches of {len(good)} {where} ({counts})"
    options: dict[str, Any] = {"seed": seed, "preprocess": preprocess, "num_workers": num_workers}
    groups = _Photographs(train=train, val=val, test=test)
    return Dataset("natural_patches", what, train, val, test, groups=groups, **options)


def _sources(source: str, root: str | None) -> tuple[list[Path], Parts | None]:
    """Files, and the numbers of those of each split that has a folder; photographs are found without an import."""
    if source == "folder":
        if root is None:
            raise DataError("NaturalPatches: source folder needs one; set dataset.root, or source: photographs")
        files = pictures_below("NaturalPatches", root, "name a folder, or set source: photographs")
        return files, folders_of_splits("NaturalPatches", root, files)
    if root is not None:
        raise DataError(f"NaturalPatches: dataset.root {root} is for source folder; set dataset.source: folder")
    files = []
    for (package, folder), names in _PHOTOGRAPHS.items():
        found = importlib.util.find_spec(package)
        base = Path(found.origin if found is not None and found.origin else "").parent / folder
        files += [base / name for name in names.split()]
        if missing := [name for name in names.split() if not (base / name).is_file()]:
            raise DataError(
                f"photographs: the installed {package} lacks {', '.join(missing)}; install scikit-image and "
                "scikit-learn anew, or set dataset.source: folder and dataset.root"
            )
    return files, None


def _read(file: Path, *, image_size: int, intensity: Intensity, filter: Filter, how: dict[str, float]) -> np.ndarray:
    """A picture, filtered, (1, image_size, image_size): float16, or uint8 if there is no filter."""
    try:
        with Image.open(file) as image:
            side = min(image.size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        side = image_size  # `read_picture` says what is wrong with it
    if side < image_size:
        raise DataError(f"{file} is only {side} pixels high or wide; lower dataset.image_size {image_size}")
    grey = read_picture(file, image_size=image_size)
    if filter == "none":
        return grey
    act = {"olshausen_field": olshausen_field, "local_contrast": local_contrast}[filter]
    return act(intensities(intensity)[grey[0]], **how)[None].astype(np.float16)


def _preprocess(filter: Filter, intensity: Intensity, training: Rows) -> Callable[[Tensor], Tensor]:
    """From what `_read` gives to x; how strong filtered images are, those of training say."""
    if filter == "none":
        return Tabulated(torch.from_numpy(intensities(intensity)))
    numbers = chunks(torch.arange(len(training)), training)
    squares = torch.cat([training.read(some).double().square().mean((1, 2, 3)) for some in numbers])
    if not squares.any():
        raise DataError(f"NaturalPatches: dataset.filter {filter} leaves nothing of the images; raise dataset.cutoff")
    return Scaled(squares.mean().sqrt().item())


@dataclass(eq=False, repr=False)
class Patches(Rows):
    """Square patches (C, size, size) of the images `numbers`, each cut at random: any image, any place, all alike.

    Where a patch is cut is a function of (key, epoch, number), of epoch 0 unless `anew`. If the variance of its x, by
    `preprocess`, is too small, it is cut elsewhere: the first of 8 places that has enough, or else the one with most.
    """

    images: Rows
    numbers: Tensor
    num: int
    size: int
    _: KW_ONLY
    key: int
    anew: bool
    min_variance: float
    preprocess: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        _, channels, height, width = self.images.shape
        if self.size > min(height, width):
            raise DataError(f"patch_size {self.size} does not fit into images of {height} x {width}; lower it")
        self.photographs = self.numbers  # (M,), in the data set
        if not isinstance(self.images, Held | Mapped):  # a subset may put its own good rows in place of bad ones
            self.images, self.numbers = self.images.subset(self.numbers), torch.arange(len(self.numbers))
        self.shape, self.dtype = (self.num, channels, self.size, self.size), self.images.dtype
        self.place = f"cut when read, from {self.images.place}"

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        return self.cut(numbers, epoch)[0]

    def cut(self, numbers: Tensor, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Patches (B, C, size, size), and image, top and left of each, (B, 3)."""
        places = self.places(numbers, epoch)  # (B, K, 3)
        chosen = places[:, 0].clone()
        patches = self._cut(chosen)
        if self.min_variance > 0 and (flat := self.variances(patches) < self.min_variance).any():
            places = places[flat]
            candidates = self._cut(places.flatten(0, 1)).unflatten(0, places.shape[:2])
            variances = self.variances(candidates.flatten(0, 1)).view(places.shape[:2])
            enough = variances >= self.min_variance
            best = torch.where(enough.any(1), enough.int().argmax(1), variances.argmax(1))
            row = torch.arange(len(best))
            patches[flat], chosen[flat] = candidates[row, best], places[row, best]
        return patches, chosen

    def places(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        """Image, top and left of the places that each patch may be cut from, (B, K, 3); K is 1 if any will do."""
        num = _CANDIDATES if self.min_variance > 0 else 1
        start = draws.key(self.key, epoch if self.anew else 0)
        u = draws.uniform(start, numbers, 3 * num).view(-1, num, 3)
        height, width = self.images.shape[-2:]
        counts = torch.tensor([len(self.numbers), height - self.size + 1, width - self.size + 1])
        return (u.double() * counts).long()  # float32 could round up to a count

    def variances(self, patches: Tensor) -> Tensor:
        """The variance of x over each patch, (B,)."""
        x = self.preprocess(patches).double().flatten(1)
        return (x - x.mean(1, keepdim=True)).square().mean(1)  # torch's `var` warns of a rank's empty share

    def _cut(self, places: Tensor) -> Tensor:
        """Patches (B, C, size, size) at places (B, 3)."""
        image, top, left = places.T.numpy()
        pixels, image = self._pixels(self.numbers.numpy()[image])
        span = np.arange(self.size)
        channel = np.arange(self.shape[1])[:, None, None]
        rows, columns = (top[:, None] + span)[:, None, :, None], (left[:, None] + span)[:, None, None, :]
        return torch.from_numpy(np.asarray(pixels[image[:, None, None, None], channel, rows, columns]))

    def _pixels(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An array of images, and where in it these are; of one in memory or mapped only the patches are touched."""
        if isinstance(self.images, Held):
            return self.images.values.numpy(), image
        if isinstance(self.images, Mapped) and isinstance(self.images.array, np.ndarray):  # not of HDF5, say
            return self.images.array, image
        unique, where = np.unique(image, return_inverse=True)
        return self.images.read(torch.from_numpy(unique)).numpy(), where


class _Photographs(Mapping[str, Tensor]):
    """The number of each patch's photograph, (N,), by split; of training patches in epoch 0. Found when asked for."""

    def __init__(self, **patches: Patches) -> None:
        self._patches = patches

    def __getitem__(self, split: str) -> Tensor:
        rows = self._patches[split]
        return torch.cat([rows.photographs[rows.cut(n)[1][:, 0]] for n in chunks(torch.arange(len(rows)), rows)])

    def __iter__(self) -> Iterator[str]:
        return iter(self._patches)

    def __len__(self) -> int:
        return len(self._patches)

"""Patches of natural images: which images, what they pass through as a whole, and how patches are cut."""

import importlib.util
from collections import UserDict
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from . import draws
from .dataset import SPLITS, Dataset, remembered
from .decoding import Items, OnBad, decoded
from .errors import DataError
from .image_folders import Parts, all_splits, folders_of_splits, pictures_below, read_picture
from .normalization import Scaled, Tabulated
from .rows import Mapped, Rows, chunks

Intensity = Literal["grey", "linear", "log"]
Filter = Literal["none", "olshausen_field", "local_contrast"]

_CROPS = 4  # a stream of draws; those before are of a data set and of batches
_CANDIDATES = 8  # places that a patch may be cut from, if its variance counts
_MEASURED = 1000  # images at most that say how strong filtered images are

# Of what two packages carry, all that shows a scene as an eye would see it, and one of a stereo pair only.
_PHOTOGRAPHS = {
    "skimage/data": "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png "
    "motorcycle_left.png rocket.jpg",
    "sklearn/datasets/images": "china.jpg flower.jpg",
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
        cache, on_bad, num_workers: As of `ImageFolder`; without a cache images are filtered whenever patches are cut.
        seed: Of the split and of where patches are cut.

    Raises:
        DataError: No folder, no or too few pictures in it, a bad one, or patches larger than images.

    Reference: Olshausen & Field (1996), doi:10.1038/381607a0, and those of `intensities` and the filters.
    """
    files, parts = _sources(source, root)
    acts = {"olshausen_field": partial(olshausen_field, cutoff=cutoff)}
    acts["local_contrast"] = partial(local_contrast, surround=surround)
    act, values = acts.get(filter), intensities(intensity)
    settings: dict[str, Any] = {"image_size": image_size, "filter": filter}
    if act:  # the intensity of unfiltered images is a look-up in a table, which needs no copy of them
        settings |= {"intensity": intensity, **act.keywords}
    read = partial(_read, image_size=image_size, values=values, act=act)
    dtype, shape = "float16" if act else "uint8", (1, image_size, image_size)
    pictures = Items("NaturalPatches", files, read, shape, settings, dtype)
    images, good = decoded(pictures, cache=cache, on_bad=on_bad, num_workers=num_workers)
    alike = torch.zeros(len(files), dtype=torch.int64)
    numbers = all_splits("NaturalPatches", parts, alike, good, seed, val=val_fraction, test=test_fraction)
    counts = ", ".join(f"{len(part)} in {split}" for split, part in zip(SPLITS, numbers, strict=True))
    if not all(map(len, numbers)):
        raise DataError(f"NaturalPatches: each split needs a picture that can be read, not {counts}; use more pictures")
    preprocess: Any = Tabulated(torch.from_numpy(values))
    if act:
        preprocess = Scaled(_strength(images.subset(numbers[0][:_MEASURED])))
    cut = partial(Patches, images, min_variance=min_variance, preprocess=preprocess)
    train, val, test = (
        cut(part, num, patch_size, key=draws.key(seed, _CROPS, i), anew=i == 0)
        for i, (part, num) in enumerate(zip(numbers, (num_train, num_val, num_test), strict=True))
    )
    if min_variance > 0:
        most = train.variances(train.read(torch.arange(min(num_train, _MEASURED)))).max()
        if most < min_variance:
            what = f"above that of every patch looked at, {most:.3g} at most"
            raise DataError(f"NaturalPatches: dataset.min_variance {min_variance:g} is {what}; lower it")
    where = f"pictures in {root}" if source == "folder" else "photographs inside scikit-image and scikit-learn"
    what = f"{patch_size} x {patch_size} patches of {len(good)} {where} ({counts})"
    options: dict[str, Any] = {"seed": seed, "preprocess": preprocess, "num_workers": num_workers}
    groups = _Photographs(train=train, val=val, test=test)
    return Dataset("natural_patches", what, train, val, test, groups=groups, **options)


def _sources(source: str, root: str | None) -> tuple[list[Path], Parts]:
    """Files, and the numbers of those of each split that has a folder; photographs are found without an import."""
    if source == "folder":
        if root is None:
            raise DataError("NaturalPatches: source folder needs one; set dataset.root, or source: photographs")
        files = pictures_below("NaturalPatches", root, "name a folder, or set source: photographs")
        return files, folders_of_splits("NaturalPatches", root, files)
    if root is not None:
        raise DataError(f"NaturalPatches: dataset.root {root} is for source folder; set dataset.source: folder")
    files = []
    for place, names in _PHOTOGRAPHS.items():
        package, _, folder = place.partition("/")
        found = importlib.util.find_spec(package)
        files += [Path((found and found.origin) or "").parent / folder / name for name in names.split()]
    if missing := [file.name for file in files if not file.is_file()]:
        what = f"the installed scikit-image and scikit-learn lack {', '.join(missing)}"
        raise DataError(f"photographs: {what}; install both anew, or set dataset.source: folder and dataset.root")
    return files, {}


def _read(file: Path, *, image_size: int, values: np.ndarray, act: Callable[..., np.ndarray] | None) -> np.ndarray:
    """A picture, filtered, (1, image_size, image_size): float16, or uint8 if there is no filter."""
    grey = read_picture(file, image_size=image_size, enlarge=False)
    return act(values[grey[0]])[None].astype(np.float16) if act else grey


def _strength(images: Rows) -> float:
    """Root mean square of filtered images."""
    numbers = chunks(torch.arange(len(images)), images)
    squares = torch.cat([images.read(some).double().square().mean((1, 2, 3)) for some in numbers])
    if not squares.any():
        raise DataError("NaturalPatches: dataset.filter leaves nothing of the images; raise dataset.cutoff")
    return squares.mean().sqrt().item()


def intensities(kind: Intensity) -> np.ndarray:
    r"""What each of the 256 grey values of a file stands for, float32 (256,), from 0 to 1.

    `grey` is :math:`g`, the value itself over 255. `linear` is light, :math:`l = ((g + 0.055) / 1.055)^{2.4}`, or
    :math:`g / 12.92` up to 0.04045: files code light by the sRGB curve. `log` is :math:`\log(1 + 255\, l) / \log 256`,
    in which contrast does not depend on how bright a scene is lit; the 1 keeps the steps of dark pixels small.

    Reference: van Hateren & van der Schaaf (1998), who take the logarithm of light, doi:10.1098/rspb.1998.0303
    """
    grey = np.linspace(0, 1, 256)
    if kind == "grey":
        return grey.astype(np.float32)
    light = np.where(grey <= 0.04045, grey / 12.92, ((grey + 0.055) / 1.055) ** 2.4)
    if kind == "log":
        light = np.log1p(255 * light) / np.log(256)
    return light.astype(np.float32)


def olshausen_field(image: np.ndarray, cutoff: float = 0.39) -> np.ndarray:
    r"""Flattens the spectrum of natural images and cuts off high frequencies, which are mostly noise.

    .. math:: R(f) = f \exp(-(f / f_0)^4)

    of the radial frequency f in cycles a pixel; the Nyquist frequency is 0.5. The mean goes, R(0) = 0. The image is
    continued by its reflections, so that nothing wraps around: cosines are what the filter scales.

    From (H, W) to float64 (H, W); `cutoff` is f₀, whatever the image's size: 200 cycles in 512 pixels are 0.39.

    Reference: Olshausen & Field (1997), doi:10.1016/S0042-6989(97)00169-7
    """
    from scipy.fft import dctn, idctn  # noqa: PLC0415 - slow to import

    if not cutoff > 0:
        raise DataError(f"cutoff must be > 0 cycles a pixel, got {cutoff}")
    # The k-th cosine of n pixels has k / 2 cycles in them.
    down, across = (np.arange(size) / (2 * size) for size in image.shape)
    frequency = np.hypot(down[:, None], across)
    gain = frequency * np.exp(-((frequency / cutoff) ** 4))
    return idctn(gain * dctn(np.asarray(image, np.float64)))


def local_contrast(image: np.ndarray, surround: float = 4.0) -> np.ndarray:
    r"""Each pixel against those around it, in units of how much these vary.

    .. math:: y = \frac{v}{\max(\sigma, \bar\sigma)}, \qquad v = x - g * x, \quad \sigma^2 = g * v^2

    From (H, W) to float64 (H, W). g is a Gaussian window, its standard deviation `surround` pixels, and
    :math:`\bar\sigma` the image's mean of σ, which keeps flat regions flat. The image is continued by its reflections.

    Reference: Jarrett et al. (2009), doi:10.1109/ICCV.2009.5459469
    """
    from scipy.ndimage import gaussian_filter  # noqa: PLC0415 - slow to import

    if not surround > 0:
        raise DataError(f"surround must be > 0 pixels, got {surround}")
    x = np.asarray(image, np.float64)
    centred = x - gaussian_filter(x, surround, mode="reflect")
    spread = np.sqrt(gaussian_filter(centred**2, surround, mode="reflect"))
    floor = max(float(spread.mean()), 1e-8)  # of an image without any contrast rounding errors alone would be left
    return centred / np.maximum(spread, floor)


@dataclass(eq=False, repr=False)
class Patches(Rows):
    """Square patches (1, size, size) of the grey images `numbers`, each cut at random: any image, any place, all alike.

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
        height, width = self.images.shape[-2:]
        if self.size > min(height, width):
            raise DataError(f"patch_size {self.size} does not fit into images of {height} x {width}; lower it")
        self.shape, self.dtype = (self.num, 1, self.size, self.size), self.images.dtype
        self.place = f"cut when read, from {self.images.place}"

    def read(self, numbers: Tensor, epoch: int = 0) -> Tensor:
        return self.cut(numbers, epoch)[0]

    def cut(self, numbers: Tensor, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Patches (B, 1, size, size), and image, top and left of each, (B, 3)."""
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
        """Patches (B, 1, size, size) at places (B, 3)."""
        image, top, left = places.T.numpy()
        image = self.numbers.numpy()[image]
        if isinstance(self.images, Mapped):
            pixels = self.images.array  # of which only the patches are touched
        else:
            unique, image = np.unique(image, return_inverse=True)
            pixels = self.images.read(torch.from_numpy(unique)).numpy()
        span, of_all = np.arange(self.size), (slice(None), None, None, None)
        rows, columns = top[of_all] + span[:, None], left[of_all] + span
        return torch.from_numpy(np.asarray(pixels[image[of_all], 0, rows, columns]))


class _Photographs(UserDict[str, Any]):
    """The number of each patch's photograph, (N,), by split; of training patches in epoch 0. Found when asked for."""

    def __getitem__(self, split: str) -> Tensor:
        rows: Patches = super().__getitem__(split)
        return torch.cat([rows.numbers[rows.cut(n)[1][:, 0]] for n in chunks(torch.arange(len(rows)), rows)])

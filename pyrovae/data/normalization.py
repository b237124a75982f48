"""Raw datapoints to floats, entry by entry; and maps fitted to the training split: its mean away, or whitened."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.distributions import constraints

from .errors import DataError
from .rows import chunks

if TYPE_CHECKING:
    from .dataset import Dataset

Chunks = Callable[[], Iterator[Tensor]]

_LOOKED_AT = 64  # training datapoints
_MOST = 50_000  # training datapoints that a normalization is fitted to
_DECODED = 2000  # the same for a mean, where each has to be decoded
_WIDEST = 5000  # entries of x that ZCA takes: of more, the eigenvectors take many minutes and gigabytes


def as_floats(raw: Tensor) -> Tensor:
    """Pixels of 8 bits go to [0, 1], all else stays as it is."""
    return raw.float().div_(255) if raw.dtype == torch.uint8 else raw.float()


@dataclass(frozen=True)
class Scaled:
    """x = raw / scale, float32, whatever the type.

    >>> Scaled(2.0)(torch.tensor([3, 4]))
    tensor([1.5000, 2.0000])
    """

    scale: float = 1.0

    def __call__(self, raw: Tensor) -> Tensor:
        return raw.float() if self.scale == 1 else raw.float().div_(self.scale)


@dataclass(frozen=True, repr=False)
class Tabulated:
    """x = table[raw], for pixels of 8 bits; `table` is (256,), float32."""

    table: Tensor

    def __call__(self, raw: Tensor) -> Tensor:
        return self.table.to(raw.device)[raw.int()]

    def __repr__(self) -> str:
        return f"Tabulated({self.table[0]:.3g} to {self.table[-1]:.3g})"


def is_entrywise(preprocess: Any) -> bool:
    """Whether it is one of these, so that what it makes of an entry depends on nothing else."""
    if isinstance(preprocess, Inverted):
        return is_entrywise(preprocess.first)
    return preprocess is as_floats or isinstance(preprocess, Scaled | Tabulated)


def in_full(preprocess: Callable[[Tensor], Tensor], raw: Tensor) -> Tensor:
    """What `preprocess` makes of `raw`, in float64 where float32 would cut digits off, if it is one of these."""
    if raw.dtype not in (torch.float64, torch.int32, torch.int64) or not is_entrywise(preprocess):
        return preprocess(raw)
    if isinstance(preprocess, Inverted):
        return 1 - in_full(preprocess.first, raw)
    return raw.double() / (preprocess.scale if isinstance(preprocess, Scaled) else 1)


class Normalization(nn.Module):
    """A map, `forward`, from x (B, *x_shape) to x of the same shape, float32, fitted to training data."""

    def fit(self, chunks: Chunks) -> None:
        """Learns from x, given in chunks (B, *x_shape), the same at each call; a `DataError`, if it is not for them."""


class Centering(Normalization):
    """x minus the mean of each entry."""

    mean: Tensor

    def fit(self, chunks: Chunks) -> None:
        self.register_buffer("mean", _means(chunks))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean).float()  # float64 data may have an offset that float32 cannot hold


class Standardization(Centering):
    """x minus the mean of each entry, over the root of the mean variance, so that contrasts within x stay.

    With `each_entry` over each entry's own, for entries of unlike units; one that never varies is only centred.
    """

    scale: Tensor

    def __init__(self, *, each_entry: bool = False) -> None:
        super().__init__()
        self.each_entry = each_entry

    def fit(self, chunks: Chunks) -> None:
        super().fit(chunks)
        variance = _means(lambda: ((chunk.double() - self.mean).square() for chunk in chunks()))
        self.register_buffer("scale", _root(variance if self.each_entry else variance.mean()).float())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).div_(self.scale)


class ContrastNormalization(Normalization):
    r"""Each datapoint by itself: y = (x - mean(x)) / √(var(x) + ε); nothing is learned.

    `epsilon` is ε >= 0, in units of x²: contrasts far below its root, by default 3 of 255 grey values, stay small.

    Reference:
        An analysis of single-layer networks in unsupervised feature learning (Coates, Ng & Lee, 2011), AISTATS

    >>> ContrastNormalization(epsilon=0.0)(torch.tensor([[1.0, 3.0]]))
    tensor([[-1.,  1.]])
    """

    def __init__(self, *, epsilon: NonNegativeFloat = 10 / 255**2) -> None:
        super().__init__()
        self.epsilon = _at_least_zero(epsilon)

    def forward(self, x: Tensor) -> Tensor:
        centred = x.flatten(1) - x.flatten(1).mean(1, keepdim=True)
        return (centred / _root(centred.square().mean(1, keepdim=True) + self.epsilon)).view_as(x).float()


class ZCA(Centering):
    r"""Whitening that changes x least: entries become uncorrelated, and of variance 1.

    .. math:: y = U (\Lambda + \epsilon \bar\lambda)^{-1/2} U^\top (x - \mu), \qquad \Sigma = U \Lambda U^\top

    Σ is the covariance of training data and :math:`\bar\lambda` the mean of its eigenvalues. Directions in which
    training data do not vary at all become zero. `epsilon` is ε >= 0: 0 whitens wholly; natural images, whose least
    variances are noise, want some. `fit` raises a `DataError` of data of more than 5,000 entries.

    Reference:
        The "independent components" of natural scenes are edge filters (Bell & Sejnowski, 1997),
        doi:10.1016/S0042-6989(97)00121-1
    """

    matrix: Tensor

    def __init__(self, *, epsilon: NonNegativeFloat = 0.01) -> None:
        super().__init__()
        self.epsilon = _at_least_zero(epsilon)

    def fit(self, chunks: Chunks) -> None:
        super().fit(chunks)
        if (size := self.mean.numel()) > _WIDEST:
            what = f"a datapoint has {size} entries, and whitening takes {_WIDEST} at most"
            raise DataError(f"normalize zca: {what}; use standardize, or smaller images")
        covariance, count = torch.zeros(size, size, dtype=torch.float64), 0
        for chunk in chunks():
            rows = (chunk.double() - self.mean).flatten(1)
            covariance.addmm_(rows.T, rows)
            count += len(chunk)
        values, vectors = torch.linalg.eigh(covariance / count)  # ascending
        varies = values > 1e-10 * values[-1].clamp(min=torch.finfo(torch.float64).tiny)
        gain = torch.where(varies, (values.clamp(min=0) + self.epsilon * values.mean()).rsqrt(), 0.0)
        matrix = (vectors * gain) @ vectors.T
        self.register_buffer("matrix", ((matrix + matrix.T) / 2).float())  # rounding left it not quite symmetric

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x).flatten(1) @ self.matrix).view_as(x)


NORMALIZATIONS: dict[str, type[Normalization]] = {"center": Centering, "standardize": Standardization}
NORMALIZATIONS |= {"zca": ZCA, "contrast": ContrastNormalization}


def _root(variance: Tensor) -> Tensor:
    return torch.where(variance > 0, variance, 1.0).sqrt()


def _at_least_zero(epsilon: float) -> float:
    if not epsilon >= 0:
        raise DataError(f"epsilon must be >= 0, got {epsilon}")
    return epsilon


def _means(chunks: Chunks) -> Tensor:
    """Of each entry, of the type of x."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for chunk in chunks():
        total, count = total + chunk.double().sum(0), count + len(chunk)
    return (total / count).to(chunk.dtype)


class Inverted:
    """1 - x, of what `first` makes of raw datapoints: black where white was.

    >>> Inverted(as_floats)(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([1., 0.])
    """

    def __init__(self, first: Callable[[Tensor], Tensor]) -> None:
        self.first = first

    def __call__(self, raw: Tensor) -> Tensor:
        return 1 - self.first(raw)

    def __repr__(self) -> str:
        return f"Inverted({'' if self.first is as_floats else self.first})"


class Preprocess:
    """What a data set did with raw datapoints before, and then a normalization, on the device of x."""

    def __init__(self, first: Callable[[Tensor], Tensor], normalization: Normalization) -> None:
        self.first, self.normalization = first, normalization
        self._copies = {torch.device("cpu"): normalization}

    def __call__(self, raw: Tensor) -> Tensor:
        x = in_full(self.first, raw)
        if x.device not in self._copies:
            self._copies[x.device] = copy.deepcopy(self.normalization).to(x.device)
        with torch.no_grad():
            return self._copies[x.device](x)


def as_in(data: "Dataset", other: "Dataset") -> "Dataset":
    """`other` with x normalized by what was fitted to `data`, not to itself."""

    def fitted(of: Any, first: Any) -> Any:
        return Preprocess(fitted(of.first, first), of.normalization) if isinstance(of, Preprocess) else first

    return replace(other, preprocess=fitted(data.preprocess, first_of(other.preprocess)))


def first_of(preprocess: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What it does before any normalization."""
    return first_of(preprocess.first) if isinstance(preprocess, Preprocess) else preprocess


def _training(data: "Dataset", most: int) -> Iterator[Tensor]:
    """x of at most so many training datapoints, at even distances, in chunks; not augmented, nor drawn."""
    rows = data.rows("train")
    every = torch.arange(0, len(rows), max(1, -(-len(rows) // most)), device=rows.device)
    return (in_full(data.preprocess, rows.read(part)).cpu() for part in chunks(every, rows))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inside, torch adds in one order, on which the last bits of a sum depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def average(data: "Dataset") -> Tensor:
    """The mean of x over training datapoints, entry by entry, (*x_shape), float32.

    Of grey values, where x is drawn from them, and of images that are not augmented. More than 50,000 datapoints, or
    2,000 where each is decoded or cut when read, are thinned to that.
    """
    most = _MOST if data.rows("train").at_hand else _DECODED
    with torch.no_grad(), _one_thread():
        return _means(lambda: _training(data, most)).float()


def inverted(data: "Dataset") -> "Dataset":
    """The same images with 1 - x for x: ink as light on a dark ground. Raises a `DataError` unless x is in [0, 1].

    >>> from pyrovae.data import Dataset
    >>> Dataset("paper", "white", *torch.ones(3, 2, 1, 4, 4)).inverted().take("val")[0].max()
    tensor(0.)
    """
    what = f"dataset {data.name}: invert"
    if len(data.x_shape) != 3:
        raise DataError(f"{what} is for images (C, H, W), and x is {data.x_shape}; leave dataset.invert out")
    new = replace(data, preprocess=Inverted(data.preprocess), source=f"{data.source}, inverted")
    if found := new.outside(constraints.unit_interval.check):
        raise DataError(f"{what} is for values in [0, 1], and of 1 - x {found}; leave dataset.invert out")
    if hasattr(data, "made_by"):
        make, arguments = data.made_by
        object.__setattr__(new, "made_by", (make, {**arguments, "invert": not arguments.get("invert", False)}))
    return new


def normalized(data: "Dataset", normalization: Normalization) -> "Dataset":
    """The same data set with x normalized, by `ZCA()` say, fitted to x of its training split alone, not augmented.

    Of more than 50,000 datapoints it is fitted to every so many; on the CPU by one thread, so that it is the same to
    the bit wherever the library is the same. Raises a `DataError` of binary data, or data that it is not for.
    """
    kind = next((k for k, of in NORMALIZATIONS.items() if type(normalization) is of), type(normalization).__name__)
    what = f"dataset {data.name}: normalize {kind}"
    if data.binarize != "none":
        raise DataError(f"{what} is for real values, and binarize is {data.binarize}; set dataset.binarize: none")
    normalization, rows = copy.deepcopy(normalization), data.rows("train")
    with torch.no_grad(), _one_thread():
        normalization.fit(lambda: _training(data, _MOST))
    preprocess = Preprocess(data.preprocess, normalization)
    few = torch.linspace(0, len(rows) - 1, _LOOKED_AT, device=rows.device).long()  # of which something must be left
    if not preprocess(rows.read(few)).any():
        raise DataError(f"{what} leaves nothing of data that never vary; leave it out")
    return replace(data, preprocess=preprocess, source=f"{data.source}, normalize {kind}")

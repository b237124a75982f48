"""Normalizations fitted to a data set's training split, and to that alone."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import DataError
from ..rows import chunks
from .normalization import Centering, ContrastNormalization, Normalization, Standardization
from .zca import ZCA

if TYPE_CHECKING:
    from ..dataset import Dataset

NORMALIZATIONS: dict[str, type[Normalization]] = {
    "center": Centering,
    "standardize": Standardization,
    "zca": ZCA,
    "contrast": ContrastNormalization,
}
_LOOKED_AT = 64  # training datapoints, of which something must be left
_MOST = 50_000  # training datapoints that a normalization is fitted to


class Preprocess:
    """What a data set did with raw datapoints before, and then a normalization, on the device of x."""

    def __init__(self, first: Callable[[Tensor], Tensor], normalization: Normalization) -> None:
        self.first, self.normalization = first, normalization
        self._copies = {torch.device("cpu"): normalization}

    def __call__(self, raw: Tensor) -> Tensor:
        x = self.first(raw)
        if x.device not in self._copies:
            self._copies[x.device] = copy.deepcopy(self.normalization).to(x.device)
        with torch.no_grad():
            return self._copies[x.device](x)


def as_in(data: "Dataset", other: "Dataset") -> "Dataset":
    """`other` with x normalized by what was fitted to `data`, not to itself."""
    fitted, preprocess = list[Normalization](), other.preprocess
    while isinstance(preprocess, Preprocess):
        preprocess = preprocess.first
    of_data = data.preprocess
    while isinstance(of_data, Preprocess):
        fitted.append(of_data.normalization)
        of_data = of_data.first
    for normalization in reversed(fitted):
        preprocess = Preprocess(preprocess, normalization)
    return replace(other, preprocess=preprocess)


def normalized(data: "Dataset", normalization: Normalization) -> "Dataset":
    """`data` with x normalized by what is fitted here, to its training x as drawn for evaluation, without augmentation.

    Of more than 50,000 training datapoints every so many are taken. The result is the same to the bit wherever the
    library is the same: it is fitted on the CPU by one thread.

    Raises:
        DataError: Binary data, or data that the normalization is not for.
    """
    kind = next(
        (k for k, cls in NORMALIZATIONS.items() if isinstance(normalization, cls)), type(normalization).__name__
    )
    if data.binarize != "none":
        raise DataError(
            f"dataset {data.name}: normalize {kind} is for real values, and binarize is {data.binarize}; set "
            "dataset.binarize: none"
        )
    normalization = copy.deepcopy(normalization)
    with _one_thread(), torch.no_grad():
        normalization.fit(lambda: _training_chunks(data))
    preprocess = Preprocess(data.preprocess, normalization)
    rows = data.rows("train")
    few = torch.linspace(0, len(rows) - 1, _LOOKED_AT, device=rows.device).long()
    if not preprocess(rows.read(few)).any():
        raise DataError(f"dataset {data.name}: normalize {kind} leaves nothing of data that never vary; leave it out")
    return replace(data, preprocess=preprocess, source=f"{data.source}, normalize {kind}")


def _training_chunks(data: "Dataset") -> Iterator[Tensor]:
    rows = data.rows("train")
    step = max(1, -(-len(rows) // _MOST))
    for numbers in chunks(torch.arange(0, len(rows), step, device=rows.device), rows):
        yield data.finish("train", rows.read(numbers), numbers).cpu()


@contextmanager
def _one_thread() -> Iterator[None]:
    """The order of sums, and so their last bits, depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

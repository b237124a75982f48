"""Whether the likelihood has a density for the data."""

import math
from collections.abc import Collection
from typing import Any

import torch

from ..models.likelihoods.base import Likelihood

_ENTRIES = 2**20  # of the batch that is looked at
_FEW = 0.01  # share of values that may be mistakes
_DARKEST_WHITE = 127  # a largest value above it, and up to 255, is taken for that of pixels


def check_support(likelihood: type[Likelihood], data: Any, *, keys: Collection[str] = ()) -> None:
    """Looks at what the data set's `outside` finds, if it has that, and at one batch.

    Args:
        likelihood: Of the model.
        data: As `fit` takes it; its `outside(allowed)` returns None, or what of it is not allowed.
        keys: Settings that the data set has, of which some may be advised.

    Raises:
        ValueError: How many values lie outside the support, the first of them, and what to set.
    """
    find = getattr(data, "outside", None)
    found = find(likelihood.supports) if find is not None else None
    if found is not None:
        support = "[0, 1], which binarize draws from" if found.drawn_from else likelihood.described()
        raise ValueError(f"{found}; outside {support}; {_remedy(likelihood, found, keys)}")
    size = max(1, min(256, _ENTRIES // max(1, math.prod(data.x_shape))))
    likelihood.check(next(iter(data.batches("train", size))))  # what augmenting made of them


def _remedy(likelihood: type[Likelihood], found: Any, keys: Collection[str]) -> str:
    """What to set."""
    scalable, binarizable = "scale" in keys, "binarize" in keys
    if found.num_nan or found.num_infinite:
        return "clean the data, for no likelihood has a density there"
    large, between = (bool(likelihood.supports(torch.tensor(value))) for value in (2.0, 0.5))
    binary, counts = not between and not large, not between and large
    in_unit_interval, positive = found.low >= 0 and found.high <= 1, found.low >= 0
    choices = []
    goes_on = binarizable or not binary or found.drawn_from  # scaled values are not yet binary
    if scalable and goes_on and positive and not in_unit_interval and (found.drawn_from or not large):
        scale = 255 if _DARKEST_WHITE < found.high <= 255 else found.high
        choices.append(
            f"dataset.scale={scale:.6g}" + (" and dataset.binarize: dynamic" if binary and not found.drawn_from else "")
        )
    if found.drawn_from:
        return f"set {', or '.join([*choices, 'dataset.binarize: none'])}"
    if binarizable and in_unit_interval and binary:
        choices.append("dataset.binarize: dynamic")
    if scalable and positive and counts:
        choices.append("dataset.scale: none, if they are counts that were scaled")
    likelihoods = ["normal"]
    if in_unit_interval:
        likelihoods.insert(0, "continuous_bernoulli")
    elif positive and binary and found.num_whole == found.num:
        likelihoods.insert(0, "poisson")
    few = "mend these values, or " if found.num <= _FEW * found.num_values else ""
    return f"{few}set {', or '.join([*choices, 'model.likelihood: ' + ' or '.join(likelihoods)])}"

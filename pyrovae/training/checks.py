"""What is looked at before the first step: values that the likelihood has no density for, shapes that do not fit."""

import math
from collections.abc import Collection
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from ..capture import isolated
from ..guides import Guide
from ..inference import ELBO, evaluating
from ..models.likelihoods import Likelihood
from .loss import BatchLoss

_ENTRIES = 2**20  # of the batch that is looked at
_FEW = 0.01  # share of values that may be mistakes
_DARKEST_WHITE = 127  # a largest value above it, and up to 255, is taken for that of pixels


def check_support(likelihood: type[Likelihood], data: Any, *, keys: Collection[str] = ()) -> None:
    """Looks at all values, by `data.outside(allowed)` if there is that, and at one batch.

    Args:
        likelihood: Of the model.
        data: As `fit` takes it.
        keys: Settings that the data set has, of which some may be advised.

    Raises:
        ValueError: How many values lie outside the support, the first of them, and what to set.

    >>> import pyrovae as pv
    >>> data = pv.data.Dataset("toy", "halves", *torch.full((3, 9, 30), 0.5))
    >>> check_support(pv.models.likelihoods.Poisson, data)
    Traceback (most recent call last):
    ValueError: 810 of 810 values, the first is 0.5 ...; outside the support of Poisson, 0, 1, 2, ...; set ...
    """
    find = getattr(data, "outside", None)
    found = find and find(likelihood.supports)
    if found is not None:
        support = "[0, 1], which binarize draws from" if found.drawn_from else likelihood.described()
        raise ValueError(f"{found}; outside {support}; {_remedy(likelihood, found, keys)}")
    size = max(1, min(256, _ENTRIES // max(1, math.prod(data.x_shape))))
    likelihood.check(next(iter(data.batches("train", size))))  # what augmenting made of them


def _remedy(likelihood: type[Likelihood], found: Any, keys: Collection[str]) -> str:
    """What to set."""
    if found.num_nan or found.num_infinite:
        return "clean the data, for no likelihood has a density there"
    large, between = (bool(likelihood.supports(torch.tensor(value))) for value in (2.0, 0.5))
    binary, counts = not between and not large, not between and large
    scalable, binarizable, drawn = "scale" in keys, "binarize" in keys, found.drawn_from
    positive = found.low >= 0
    in_unit_interval = positive and found.high <= 1
    choices = []
    goes_on = binarizable or not binary or drawn  # scaled values are not yet binary
    if scalable and goes_on and positive and not in_unit_interval and (drawn or not large):
        scale = 255 if _DARKEST_WHITE < found.high <= 255 else found.high
        also = " and dataset.binarize: dynamic" if binary and not drawn else ""
        choices.append(f"dataset.scale={scale:.6g}{also}")
    if drawn:
        return f"set {', or '.join([*choices, 'dataset.binarize: none'])}"
    if binarizable and in_unit_interval and binary:
        choices.append("dataset.binarize: dynamic")
    if scalable and positive and counts:
        choices.append("dataset.scale: none, if they are counts that were scaled")
    other = "continuous_bernoulli or " if in_unit_interval else ""
    other = other or ("poisson or " if positive and binary and found.num_whole == found.num else "")
    few = "mend these values, or " if found.num <= _FEW * found.num_values else ""
    return f"{few}set {', or '.join([*choices, f'model.likelihood: {other}normal'])}"


def check_shapes(model: nn.Module, guide: Guide, x: Tensor) -> None:
    """Runs guide and model once on a batch x (B, *x_shape), and changes nothing.

    Raises:
        ValueError: They do not take x of this shape, or the guide gives other λ than its family takes.

    >>> import pyrovae as pv
    >>> model, guide = pv.models.mlp((20,), 3), pv.AmortizedGuide(pv.DiagonalNormal(3), pv.nets.MLP((20,), (6,)))
    >>> check_shapes(model, guide, torch.zeros(2, 30))
    Traceback (most recent call last):
    ValueError: the guide's encoder takes x of shape (20,), and that of the data is (30,)
    """
    shape, in_shape = tuple(x.shape[1:]), getattr(getattr(guide, "encoder", None), "in_shape", None)
    if in_shape is not None and tuple(in_shape) != shape:
        raise ValueError(f"the guide's encoder takes x of shape {tuple(in_shape)}, and that of the data is {shape}")
    who, num_params = f"the guide {type(guide).__name__}", guide.family.num_params
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad(), evaluating(model), evaluating(guide), isolated():
        try:
            params = BatchLoss(ELBO()(model, guide)).propose(x).params
            if params.shape == (len(x), num_params):
                who = f"the model {type(model).__name__}"
                z = poutine.trace(guide.family.sample).get_trace(params)
                trace = poutine.trace(poutine.replay(model, trace=z)).get_trace(x)
        except (RuntimeError, IndexError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{who} does not take x of shape {shape}, that of the data: {reason}") from error
    if params.shape != (len(x), num_params):
        found = tuple(params.shape)
        raise ValueError(f"{who} gives λ of shape {found} for x of shape {tuple(x.shape)}, not {(len(x), num_params)}")
    sites: Any = trace.nodes.values()
    for site in sites:
        if site["type"] == "sample" and site["value"] is x and site["fn"].event_shape != shape:
            raise ValueError(f"{who} gives x of shape {tuple(site['fn'].event_shape)}, and that of the data is {shape}")

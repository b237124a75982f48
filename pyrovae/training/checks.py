"""What is looked at before the first step: values that the likelihood has no density for, shapes that do not fit."""

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import torch
from pyro import poutine
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from ..capture import isolated
from ..families import Family
from ..guides import Guide
from ..inference import ELBO, Inferred, evaluating
from ..inference.elbo import scored_sites
from ..models.likelihoods import Bernoulli, Likelihood
from .figures import IN_USE
from .loss import BatchLoss

NEEDS_GRADIENTS = (
    "fails under torch.inference_mode(), in which Lightning validates; take gradients within "
    "torch.inference_mode(False) and torch.enable_grad(), and clone x"
)
_ERRORS = RuntimeError, IndexError, ValueError
_ENTRIES = 2**20  # of the batch that is looked at
_FEW_IMAGES = 256
_LITTLE = 2.0  # nats of KL
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


def hint_at_bright_images(model: nn.Module, data: Any) -> None:
    """Warns of images mostly white under a Bernoulli likelihood: ink on paper, which a VAE learns worse than light."""
    bernoulli = isinstance(getattr(model, "likelihood", None), Bernoulli)
    if not (bernoulli and len(data.x_shape) == 3 and hasattr(data, "inverted")):
        return
    mean = float(data.take("train", _FEW_IMAGES)[0].mean())
    if mean > 0.5:
        rank_zero_warn(
            f"most pixels are white (mean {mean:.2f}), and black ones learn better: dataset.invert: true, or in Python "
            "data.inverted()",
            category=UserWarning,
        )


def warn_if_unused(metrics: Mapping[str, float], family: Family) -> None:
    """Warns if validation's KL is below 2 nats and not all dimensions are in use, or none is."""
    kl, used, size = metrics["val/kl"], metrics.get("val/dims_in_use"), family.z_dim
    if used == 0 or (kl < _LITTLE and (used is None or used < size)):
        dims = "" if used is None else f", {used:.0f} of {size} dimensions above {IN_USE} nats"
        rank_zero_warn(
            f"z is hardly used: KL {kl:.2g} nats{dims} (validation); try train.beta_warmup: linear, a lower "
            "model.beta, train.objective: {type: analytic_elbo, free_bits: 0.5}, more epochs, "
            "train.start_from_data: true, or of images of ink on paper dataset.invert: true",
            category=UserWarning,
        )


def check_shapes(model: nn.Module, guide: Guide, x: Tensor) -> None:
    """Runs guide and model once on a batch x (B, *x_shape), and changes nothing.

    Raises:
        ValueError: They do not take x of this shape, the guide gives other λ than its family takes or takes gradients
            where Lightning validates, or the model takes other z than the family draws.

    >>> import pyrovae as pv
    >>> model, guide = pv.models.mlp((20,), 3), pv.AmortizedGuide(pv.DiagonalNormal(3), pv.nets.MLP((20,), (6,)))
    >>> check_shapes(model, guide, torch.zeros(2, 30))
    Traceback (most recent call last):
    ValueError: the guide's encoder takes x of shape (20,), and that of the data is (30,)
    """
    shape, in_shape = tuple(x.shape[1:]), getattr(getattr(guide, "encoder", None), "in_shape", None)
    if in_shape is not None and tuple(in_shape) != shape:
        raise ValueError(f"the guide's encoder takes x of shape {tuple(in_shape)}, and that of the data is {shape}")
    who, right = f"the model {type(model).__name__}", (len(x), guide.family.num_params)
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad(), evaluating(model), evaluating(guide), isolated():
        params = _propose(model, guide, x)
        if params.shape != right:
            found = f"λ of shape {tuple(params.shape)} for x of shape {tuple(x.shape)}"
            raise ValueError(f"the guide {type(guide).__name__} gives {found}, not {right}")
        try:
            z = poutine.trace(guide.family.sample).get_trace(params)
        except _ERRORS as error:
            family = type(guide.family).__name__
            raise ValueError(f"the family {family} does not take λ of shape {right}: {_reason(error)}") from error
        try:
            trace = poutine.trace(poutine.replay(model, trace=z)).get_trace(x)
        except _ERRORS as error:
            if params.dtype != x.dtype:
                found = f"λ is {params.dtype} for data of {x.dtype}; add .to(x.dtype)"
                raise ValueError(f"{type(guide).__name__}.infer: {found}: {_reason(error)}") from error
            raise ValueError(f"{who} {_refused(model, x, z, error)}") from error
    for _, site in scored_sites(trace):
        if site["value"] is x and site["fn"].event_shape != shape:
            event, advice = tuple(site["fn"].event_shape), _event_dim(model, len(shape))
            advice = advice if event[-len(shape) :] == shape else ""
            raise ValueError(f"{who} gives x of shape {event}, and that of the data is {shape}{advice}")


def _propose(model: nn.Module, guide: Guide, x: Tensor) -> Tensor:
    """λ, or what is wrong with the guide."""
    name, propose = type(guide).__name__, BatchLoss(ELBO()(model, guide)).propose
    try:
        inferred: Any = propose(x)
    except _ERRORS as error:
        fails = None
        with suppress(*_ERRORS), torch.enable_grad():
            propose(x)
            fails = f"{name}.infer {NEEDS_GRADIENTS}: {_reason(error)}"
        if fails:
            raise ValueError(fails) from error
        message = f"the guide {name} does not take x of shape {tuple(x.shape[1:])}, that of the data: {_reason(error)}"
        with suppress(Exception):
            found, width = tuple(guide.encoder(x).shape), guide.family.num_params  # type: ignore[operator]
            if found != (len(x), width):
                message += f"; the guide's encoder gives {found}, the family takes {width}"
        raise ValueError(message) from error
    if not isinstance(inferred, Inferred):
        raise ValueError(f"{name}.infer must return pv.Inferred, got {type(inferred).__name__}")
    return inferred.params


def _refused(model: nn.Module, x: Tensor, z: Any, error: Exception) -> str:
    """Whether a model that fails for z fails by itself too."""
    shape = tuple(x.shape[1:])
    try:
        model(x)
    except _ERRORS as own:
        return f"does not take x of shape {shape}, that of the data: {_reason(own)}{_event_dim(model, len(shape))}"
    shapes = {name: tuple(site["value"].shape[1:]) for name, site in scored_sites(z)}
    found = shapes if len(shapes) > 1 else next(iter(shapes.values()))
    return f"does not take z of shape {found}, that of the guide's family: {_reason(error)}"


def _event_dim(model: nn.Module, dims: int) -> str:
    """What to set, if the likelihood has another."""
    wrong = getattr(getattr(model, "likelihood", None), "event_dim", dims) != dims
    return f"; set event_dim={dims}, the number of dimensions of a datapoint" if wrong else ""


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

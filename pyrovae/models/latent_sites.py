"""What latent sites a Pyro model has."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.mixture_same_family import MixtureSameFamilyConstraint

from ..capture import isolated


class LatentSite(NamedTuple):
    """Where a latent variable lives."""

    event_shape: torch.Size
    support: Any  # a constraint

    @property
    def num_free(self) -> int:
        """The number of unconstrained dimensions: one less than entries for a simplex, say."""
        return biject_to(self.support).inverse_shape(self.event_shape).numel()

    @property
    def is_vector(self) -> bool:
        """Whether a value is any vector of real numbers."""
        support = self.support
        while isinstance(support, type(constraints.independent(constraints.real, 1))):
            support = support.base_constraint
        return isinstance(support, type(constraints.real)) and len(self.event_shape) == 1


def latent_sites(model: Callable, x: Tensor) -> dict[str, LatentSite]:
    """The latent sites of `model`, from one run on data `x`: in the order of `model.sites` if it has one, else its own.

    Raises:
        ValueError: No plate "data", or a site that no reparameterised per-datapoint q can stand for.
    """
    with torch.no_grad(), isolated():
        trace = poutine.trace(model).get_trace(x)
    sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and not site_is_subsample(s)}
    if not any(frame.name == "data" for site in sites.values() for frame in site["cond_indep_stack"]):
        raise ValueError(
            'the model has no plate "data"; put with pyro.plate("data", x.shape[0]) around what belongs to a datapoint'
        )
    found = {name: _read(name, site) for name, site in sites.items() if not site["is_observed"]}
    if not found:
        raise ValueError("the model has no latent site; there is nothing to infer")
    return {name: found[name] for name in getattr(model, "sites", found)}


def _read(name: str, site: Any) -> LatentSite:
    fn, plates = site["fn"], [frame.name for frame in site["cond_indep_stack"]]
    if "data" not in plates:
        raise ValueError(
            f'latent site {name!r} lies outside the plate "data", so all datapoints share it; make it a parameter of '
            "the model, torch.nn.Parameter say"
        )
    if len(plates) > 1:
        raise ValueError(
            f"latent site {name!r} lies in plates {', '.join(plates)}; make event dimensions of the inner ones, by "
            "to_event"
        )
    if fn.support.is_discrete:
        raise ValueError(
            f"latent site {name!r} is discrete ({type(fn).__name__}); sum it out, by dist.MixtureSameFamily say, or "
            "relax it, by dist.RelaxedOneHotCategorical say"
        )
    support = _shared(name, fn.support)
    try:
        biject_to(support)
    except NotImplementedError as error:
        raise ValueError(
            f"latent site {name!r} has support {support}, to which torch knows no bijection; write a family for it"
        ) from error
    return LatentSite(fn.event_shape, support)


def _shared(name: str, support: Any) -> Any:
    """`support` with numbers for bounds, in place of a tensor with an entry per datapoint of this batch."""
    support = copy.copy(support.base_constraint if isinstance(support, MixtureSameFamilyConstraint) else support)
    for key, value in vars(support).items():
        if isinstance(value, constraints.Constraint):
            setattr(support, key, _shared(name, value))
        elif isinstance(value, Tensor):
            if (value != value.flatten()[0]).any():
                raise ValueError(f"latent site {name!r} has bounds that differ; scale a variable in [0, 1] instead")
            setattr(support, key, value.flatten()[0].item())
    return support

"""The latent sites of a Pyro model: names, shapes, supports."""

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
    """Where a latent variable lives.

    >>> LatentSite(torch.Size([6]), constraints.simplex).num_free
    5
    """

    event_shape: torch.Size
    support: Any  # a constraint

    @property
    def num_free(self) -> int:
        """The number of unconstrained dimensions: for a simplex, one less than entries."""
        return biject_to(self.support).inverse_shape(self.event_shape).numel()

    @property
    def is_real(self) -> bool:
        """Whether each entry may be any real number."""
        support = self.support
        while isinstance(support, type(constraints.real_vector)):
            support = support.base_constraint
        return isinstance(support, type(constraints.real))


def latent_sites(model: Callable, x: Tensor) -> dict[str, LatentSite]:
    """The latent sites of `model`, from one run on data `x`: in the order of `model.sites` if it has one, else its own.

    Raises:
        ValueError: No plate "data", or a site that no reparameterised per-datapoint q can stand for.

    >>> import pyrovae as pv
    >>> latent_sites(pv.models.hierarchical_mlp((784,), (8, 4)), torch.zeros(7, 784))["z2"].event_shape
    torch.Size([4])
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
    order = tuple(getattr(model, "sites", found))
    if sorted(order) != sorted(found):
        raise ValueError(f"the model draws the latent sites {', '.join(found)} and its `sites` are {', '.join(order)}")
    return {name: found[name] for name in order}


def _read(name: str, site: Any) -> LatentSite:
    fn, plates = site["fn"], [frame.name for frame in site["cond_indep_stack"]]
    if "data" not in plates:
        problem = 'lies outside the plate "data", so all datapoints share it; make it a parameter of the model'
    elif len(plates) > 1:
        problem = f"lies in plates {', '.join(plates)}; make event dimensions of the inner ones, by to_event"
    elif fn.support.is_discrete:
        problem = f"is discrete ({type(fn).__name__}); sum it out, as dist.MixtureSameFamily does, or relax it"
    else:
        support = _shared(name, fn.support)
        try:
            biject_to(support)
        except NotImplementedError:
            problem = f"has support {support}, to which torch knows no bijection; write a family for it"
        else:
            return LatentSite(fn.event_shape, support)
    raise ValueError(f"latent site {name!r} {problem}")


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

"""What a training objective is."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from ..distributions import full_precision, held_fixed


class _ScaleLatents(Messenger):
    """Multiplies the log-density of every latent site by β; observed sites and factors keep theirs.

    Around model and guide both: β on one side alone is no bound of anything.
    """

    def __init__(self, beta: float | Tensor) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["scale"] = msg["scale"] * self.beta


def scored(name: str, site: Any) -> bool:
    """Whether a site of a trace has a log-density that counts."""
    return site["type"] == "sample" and not site_is_subsample(site)


def scored_sites(trace: Any) -> Iterator[tuple[str, Any]]:
    """Name and message of each such site."""
    return ((name, site) for name, site in trace.nodes.items() if scored(name, site))


def kl_of_site(guide_site: Any, model_site: Any) -> Tensor:
    """KL of one latent site (..., B): in closed form where torch knows one, else from the draw."""
    try:
        return kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        return guide_site["log_prob"] - model_site["log_prob"]


def _check_sites(model_trace: Any, guide_trace: Any) -> None:
    """Raises `ValueError` unless model and guide have the same latent sites, in the same plates."""
    model, guide = _latents(model_trace), _latents(guide_trace)
    if model == guide:
        return
    if model.keys() != guide.keys():
        sides = (f"{{{', '.join(sorted(side))}}}" for side in (model, guide))
        raise ValueError(
            "the model has latent sites {} and the guide's family {}; name them alike, or let Joint.of(model, x) "
            "make the family".format(*sides)
        )
    name = next(name for name in model if model[name] != guide[name])
    inside = (", ".join(sorted(side[name])) or "none" for side in (model, guide))
    raise ValueError(
        'latent site {!r} lies in plates {} of the model and {} of the guide; put with pyro.plate("data", x.shape[0]) '
        "around what belongs to a datapoint, and nothing else around that".format(name, *inside)
    )


def _latents(trace: Any) -> dict[str, set[str]]:
    """The latent sites of a trace, and the plates that each lies in."""
    return {
        name: {frame.name for frame in site["cond_indep_stack"]}
        for name, site in scored_sites(trace)
        if not (site["is_observed"] or site["infer"].get("is_auxiliary"))
    }


class Objective(Trace_ELBO):
    """A bound on log p(x) to maximise, for reparameterised guides, without `.item()`.

    A final class writes `differentiable_loss`.

    Args:
        num_particles: Draws of z a datapoint, in one vectorised pass.
        beta: Weight of the latent sites' log-densities, on both sides.
        path_gradient: Score z under q with q held fixed.

    Attributes:
        scorer: A guide to score z under, in place of the guide held fixed: for derivatives of a path gradient, to which
            the q held fixed is one more function of λ.

    Raises:
        ValueError: `num_particles` below 1; when called, latent sites or plates of model and guide that differ.
    """

    def __init__(self, num_particles: int, beta: float | Tensor, path_gradient: bool) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles must be >= 1, got {num_particles}")
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=num_particles > 1,
            max_plate_nesting=1,  # the plate "data"; particles lie left of it
        )
        self.beta = beta
        self.path_gradient = path_gradient
        self.scorer: Callable | None = None

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> tuple[Any, Any]:
        with _ScaleLatents(self.beta):
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
            score_trace = None
            if self.scorer is not None:
                scorer = self._vectorized_num_particles(self.scorer)
                score_trace = poutine.trace(poutine.replay(scorer, trace=guide_trace)).get_trace(*args, **kwargs)
        _check_sites(model_trace, guide_trace)
        for name, site in scored_sites(guide_trace):
            if not site["fn"].has_rsample:
                raise ValueError(f"guide site {name!r} has no rsample; use pyro.infer.Trace_ELBO")
            if self.path_gradient and not site["is_observed"]:
                site["fn"] = held_fixed(site["fn"]) if score_trace is None else score_trace.nodes[name]["fn"]
        with full_precision(args[0]):
            model_trace.compute_log_prob(scored)
            guide_trace.compute_log_prob(scored)
        return model_trace, guide_trace

    def traces(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Traces of model and guide with every log-density, all particles in one."""
        ((model_trace, guide_trace),) = self._get_traces(model, guide, args, kwargs)
        return model_trace, guide_trace

    @abstractmethod
    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The negative bound, summed over the batch, in nats; `args[0]` is the data."""

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Any:
        """The negative bound, detached."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Any:
        """`differentiable_loss`, after its backward pass, detached."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.detach()

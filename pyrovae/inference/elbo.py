"""The evidence lower bound, without host synchronisation."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import detach
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from ..distributions import full_precision
from ..families import Family

Result = TypeVar("Result")


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


def _scored(name: str, site: Any) -> bool:
    return site["type"] == "sample" and not site_is_subsample(site)


class ELBO(Trace_ELBO):
    r"""`pyro.infer.Trace_ELBO` for reparameterised guides, with β, and without `.item()`.

    .. math::
        L_\beta = E_{q(z \mid x)} [\log p(x \mid z)] - \beta \, KL(q(z \mid x) \,\|\, p(z))

    summed over the batch, in nats, estimated from `num_particles` draws in one vectorised pass. At β = 1 values and
    gradients are those of `Trace_ELBO`, bit for bit.

    Args:
        num_particles: Draws of z a datapoint.
        beta: Weight of the latent sites' log-densities, on both sides.
        path_gradient: Score z under q with q held fixed. The value is the same, the gradient loses the term
            :math:`E_q \nabla \log q = 0` and its noise.

    Raises:
        ValueError: `num_particles` below 1, or a guide site without `rsample`.

    References:
        beta-VAE (Higgins et al., 2017), openreview.net/forum?id=Sy2fzU9gl
        Sticking the Landing (Roeder et al., 2017), arXiv:1703.09194
    """

    def __init__(
        self,
        num_particles: int = 1,
        beta: float | Tensor = 1.0,
        *,
        path_gradient: bool = False,
    ) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles must be >= 1, got {num_particles}")
        super().__init__(
            num_particles=num_particles,
            vectorize_particles=num_particles > 1,
            max_plate_nesting=1,  # the plate "data"; particles lie left of it
        )
        self.beta = beta
        self.path_gradient = path_gradient

    def _get_trace(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> tuple[Any, Any]:
        with _ScaleLatents(self.beta):
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        if self.path_gradient:
            for name, site in guide_trace.nodes.items():
                if _scored(name, site) and not site["is_observed"]:
                    site["fn"] = detach(site["fn"])
        with full_precision(args[0]):
            model_trace.compute_log_prob(_scored)
            guide_trace.compute_log_prob(_scored)
        return model_trace, guide_trace

    def _particle_loss(self, model_trace: Any, guide_trace: Any) -> Any:
        elbo: Any = 0.0
        for name, site in model_trace.nodes.items():
            if _scored(name, site):
                elbo = elbo + site["log_prob_sum"]
        for name, site in guide_trace.nodes.items():
            if _scored(name, site):
                if not site["fn"].has_rsample:
                    raise ValueError(f"guide site {name!r} has no rsample; use pyro.infer.Trace_ELBO")
                elbo = elbo - site["log_prob_sum"]
        return -elbo

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The negative ELBO, summed over the batch; `args[0]` is the data."""
        loss: Any = 0.0
        for traces in self._get_traces(model, guide, args, kwargs):
            loss = loss + self._particle_loss(*traces) / self.num_particles
        return loss

    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Any:
        """The negative ELBO, detached."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Any:
        """`differentiable_loss`, after its backward pass, detached."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.detach()


class Terms(NamedTuple):
    """The two sides of the ELBO, per datapoint, in nats."""

    recon: Tensor  # (B,) E_q log p(x | z)
    kl: Tensor  # (B,) E_q [log q(z | x) - log p(z)]

    def elbo(self, beta: float | Tensor = 1.0) -> Tensor:
        """recon - β kl, shape (B,)."""
        return self.recon - beta * self.kl


def elbo_terms(model: Callable, family: Family, x: Tensor, params: Tensor, num_particles: int = 1) -> Terms:
    """Monte Carlo estimate of the ELBO's terms at λ = `params`, per datapoint; takes no gradient.

    Args:
        model: Pyro model of plate `"data"`; called with `x`.
        family: Turns λ into q.
        x: Data (B, *x_shape).
        params: λ (B, P).
        num_particles: Draws of z a datapoint.
    """
    recon, kl = x.new_zeros(x.shape[0]), x.new_zeros(x.shape[0])
    with torch.no_grad(), pyro.validation_enabled(False):
        ((model_trace, guide_trace),) = ELBO(num_particles)._get_traces(
            model, lambda x: family.sample(params), (x,), {}
        )
        with full_precision(x):
            for name, site in model_trace.nodes.items():
                if _scored(name, site) and site["is_observed"]:
                    recon = recon + site["log_prob"].reshape(-1, x.shape[0]).mean(0)
                elif _scored(name, site):
                    kl = kl + _kl(guide_trace.nodes[name], site).reshape(-1, x.shape[0]).mean(0)
    return Terms(recon, kl)


def log_weights(model: Callable, family: Family, x: Tensor, params: Tensor, num_particles: int) -> Tensor:
    """log p(x, z) - log q(z | x) of draws z ~ q, per draw and datapoint: (num_particles, B), in nats."""
    elbo = ELBO(num_particles)
    ((model_trace, guide_trace),) = elbo._get_traces(model, lambda x: family.sample(params), (x,), {})
    total = x.new_zeros(num_particles, x.shape[0])
    for sign, trace in ((1, model_trace), (-1, guide_trace)):
        for name, site in trace.nodes.items():
            if _scored(name, site):
                total = total + sign * site["log_prob"]
    return total


def _kl(guide_site: Any, model_site: Any) -> Tensor:
    """KL of one latent site (..., B): in closed form where torch knows one, else from the draw."""
    try:
        return kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        return guide_site["log_prob"] - model_site["log_prob"]


def common_noise(function: Callable[[Tensor], Result], *params: Tensor) -> list[Result]:
    """`function` of several λ, each from the same random draws, so that differences are precise."""
    cuda = params[0].device if params[0].is_cuda else None
    state = torch.cuda.get_rng_state(cuda) if cuda else torch.get_rng_state()
    results = []
    for row in params:
        torch.cuda.set_rng_state(state, cuda) if cuda else torch.set_rng_state(state)
        results.append(function(row))
    return results


def common_noise_terms(
    model: Callable, family: Family, x: Tensor, *params: Tensor, num_particles: int = 1
) -> list[Terms]:
    """`elbo_terms` at several λ under common noise."""
    return common_noise(lambda row: elbo_terms(model, family, x, row, num_particles), *params)

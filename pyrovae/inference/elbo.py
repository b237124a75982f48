"""What is climbed: the evidence lower bound, its two terms for each datapoint, and objectives in general."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import pyro
import torch
from pydantic import NonNegativeFloat, PositiveInt
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import Independent, kl_divergence

from ..capture import noise_state, set_noise_state
from ..distributions import full_precision, held_fixed
from ..families import Family


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, the parameters of `module` take no gradient and its layers are in evaluation mode.

    Gradients still flow through it. Both are put back on exit. Under autocast this matters twice:
    a weight cast to bfloat16 without gradient would be cached, and the next pass that wants the
    weight's gradient would find the cached copy and silently get none; frozen weights are not cached.
    """
    params = [p for p in module.parameters() if p.requires_grad]
    for p in params:
        p.requires_grad_(False)
    try:
        with evaluating(module):
            yield
    finally:
        for p in params:
            p.requires_grad_(True)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, the layers of `module` are in evaluation mode; its parameters take gradients as ever."""
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.__dict__["training"] = False  # not by nn.Module's __setattr__, which is slow, and this runs for every batch
    try:
        yield
    finally:
        for m in training:
            m.__dict__["training"] = True


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


Result = TypeVar("Result")


class ELBO(Objective):
    r"""`pyro.infer.Trace_ELBO` for reparameterised guides, with β, and without `.item()`.

    .. math::
        L_\beta = E_{q(z \mid x)} [\log p(x \mid z)] - \beta \, KL(q(z \mid x) \,\|\, p(z))

    summed over the batch, in nats. At β = 1 and without path gradients, values and gradients are those of
    `Trace_ELBO`, bit for bit.

    Args:
        beta: Weight of the latent sites' log-densities, on both sides.
        num_particles: Draws of z a datapoint, in one vectorised pass.
        path_gradient: Score z under q with q held fixed ("sticking the landing"). The value is the same, the gradient
            loses the term :math:`E_q \nabla \log q = 0` and its noise.

    Raises:
        ValueError: `num_particles` below 1, or a guide site without `rsample`.

    References:
        beta-VAE (Higgins et al., 2017), openreview.net/forum?id=Sy2fzU9gl
        Sticking the Landing (Roeder et al., 2017), arXiv:1703.09194
    """

    def __init__(
        self, beta: float | Tensor = 1.0, *, num_particles: PositiveInt = 1, path_gradient: bool = True
    ) -> None:
        super().__init__(num_particles, beta, path_gradient)

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        return self.loss_of(*self.traces(model, guide, *args, **kwargs))

    def loss_of(self, model_trace: Any, guide_trace: Any) -> Tensor:
        """The loss from `traces`."""
        elbo: Any = 0.0
        for _, site in scored_sites(model_trace):
            elbo = elbo + site["log_prob_sum"]
        for _, site in scored_sites(guide_trace):
            elbo = elbo - site["log_prob_sum"]
        return -elbo / self.num_particles


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
    elbo = ELBO(num_particles=num_particles, path_gradient=False)
    with torch.no_grad(), pyro.validation_enabled(False):
        model_trace, guide_trace = elbo.traces(model, lambda x: family.sample(params), x)
        with full_precision(x):
            for name, site in scored_sites(model_trace):
                if site["is_observed"]:
                    recon = recon + site["log_prob"].reshape(-1, x.shape[0]).mean(0)
                else:
                    kl = kl + kl_of_site(guide_trace.nodes[name], site).reshape(-1, x.shape[0]).mean(0)
    return Terms(recon, kl)


def common_noise(function: Callable[[Tensor], Result], *params: Tensor) -> list[Result]:
    """`function` of several λ, each from the same random draws, so that differences are precise."""
    device = params[0].device
    state = noise_state(device)
    results = []
    for row in params:
        set_noise_state(state, device)
        results.append(function(row))
    return results


def common_noise_terms(
    model: Callable, family: Family, x: Tensor, *params: Tensor, num_particles: int = 1
) -> list[Terms]:
    """`elbo_terms` at several λ under common noise."""
    return common_noise(lambda row: elbo_terms(model, family, x, row, num_particles), *params)


class AnalyticELBO(Objective):
    r"""The ELBO with KL(q ‖ p) in closed form where torch knows one; elsewhere from the draw, by path gradients.

    With `free_bits` λ > 0, a latent dimension pays for its information above λ nats only, batch mean:

    .. math:: \sum_i E_q \log p(x_i \mid z) - \beta B \sum_d \max\big(\lambda, \tfrac1B \sum_i KL_{id}\big)

    A site whose KL is not a sum over its dimensions has one allowance of D λ nats.

    Args:
        beta: Weight of the KL term.
        num_particles: Draws of z a datapoint, in one vectorised pass.
        free_bits: λ, nats a dimension that cost nothing.

    Raises:
        ValueError: A number out of range, or a guide site without `rsample`.

    References:
        Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.3, estimator B, arXiv:1312.6114
        Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), appendix C.8,
        arXiv:1606.04934
    """

    def __init__(
        self, beta: float | Tensor = 1.0, *, num_particles: PositiveInt = 1, free_bits: NonNegativeFloat = 0.0
    ) -> None:
        super().__init__(num_particles, beta, path_gradient=False)  # q stays attached for the closed form
        if not free_bits >= 0:
            raise ValueError(f"free_bits must be >= 0, got {free_bits}; 0 for none")
        self.free_bits = free_bits

    def differentiable_loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> Tensor:
        model_trace, guide_trace = self.traces(model, guide, *args, **kwargs)
        batch = args[0].shape[0]
        loss: Any = 0.0
        with full_precision(args[0]):
            for name, site in scored_sites(model_trace):
                if site["is_observed"]:
                    loss = loss - site["log_prob_sum"] / self.num_particles
                    continue
                kl, allowance = self._kl(guide_trace.nodes[name], site)
                mean = kl.reshape(self.num_particles * batch, -1).mean(0)
                if self.free_bits > 0:
                    mean = mean.clamp_min(self.free_bits * allowance)
                loss = loss + self.beta * batch * mean.sum()
        for _, site in scored_sites(guide_trace):
            if site["is_observed"]:  # a factor, of the encoder's loss say
                loss = loss + site["log_prob_sum"] / self.num_particles
        return loss

    def _kl(self, guide_site: Any, model_site: Any) -> tuple[Tensor, int]:
        """KL of a site (..., B), or (..., B, D) where it is such a sum; and of how many dimensions each entry is."""
        q, p = guide_site["fn"], model_site["fn"]
        dim = q.event_shape.numel()
        shape = guide_site["log_prob"].shape  # (..., B)
        try:
            if self.free_bits > 0 and isinstance(q, Independent) and isinstance(p, Independent):
                entries = kl_divergence(q.base_dist, p.base_dist)
                return entries.expand(*shape, *q.event_shape), 1
            return kl_divergence(q, p).expand(shape), dim
        except NotImplementedError:
            z = guide_site["value"]
            return held_fixed(q).log_prob(z) - p.log_prob(z), dim

"""What is climbed: bounds on log p(x) as objectives, and the two terms of the ELBO for each datapoint."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ..capture import noise_state, set_noise_state
from ..distributions.numerics import full_precision, held_fixed
from ..families.base import Family
from ..validation import PositiveInt, validated

Result = TypeVar("Result")
Program = Callable[..., Any]
Beta = float | Tensor  # a weight of the KL term
Rows = Tensor | None  # λ (B, P), if there is one


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, the layers of `module` are in evaluation mode; its parameters take gradients as ever.

    >>> layer = torch.nn.Dropout(0.5)
    >>> with evaluating(layer):
    ...     print(layer.training)
    False
    """
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.__dict__["training"] = False  # not by nn.Module's __setattr__, which is slow, and this runs for every batch
    try:
        yield
    finally:
        for m in training:
            m.__dict__["training"] = True


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, the parameters of `module` take no gradient and its layers are in evaluation mode.

    Gradients still flow through it. (Autocast caches no frozen weight; a cast made under `no_grad` would be cached, and
    hide the weight from the next pass that wants its gradient.)

    >>> layer = torch.nn.Linear(2, 1)
    >>> with frozen(layer):
    ...     print(layer(torch.zeros(2)).requires_grad)
    False
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


def scored(name: str, site: Any) -> bool:
    """Whether a site of a trace has a log-density that counts."""
    return site["type"] == "sample" and not site_is_subsample(site)


def scored_sites(trace: Any) -> Iterator[tuple[str, Any]]:
    """Name and message of each such site.

    >>> trace = poutine.trace(lambda: pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))).get_trace()
    >>> [name for name, _ in scored_sites(trace)]
    ['z']
    """
    return ((name, site) for name, site in trace.nodes.items() if scored(name, site))


def latent_sites_of(trace: Any) -> Iterator[tuple[str, Any]]:
    """Name and message of each that is drawn."""
    return ((name, site) for name, site in scored_sites(trace) if not site["is_observed"])


class _ScaleLatents(Messenger):
    """Multiplies the log-densities of latent sites, around model and guide both: β on one side alone is no bound."""

    def __init__(self, beta: Beta) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["scale"] = msg["scale"] * self.beta


class Objective(Trace_ELBO):
    """What training or a loop climbs, for reparameterised guides, without `.item()`: a bound, or any energy.

    A final class writes `differentiable_loss`. Those who climb it call `scaled`, and never write to it. Arguments are
    those of `ELBO`.

    Raises:
        ValueError: When called, latent sites or plates of model and guide that differ, or a site without `rsample`.

    >>> ELBO(0.5).scaled(0.5).beta, isinstance(ELBO(), Objective)
    (0.25, True)
    """

    scores_latents: bool = True  # it needs the densities of latent draws
    twice_differentiable: bool = True  # an unrolled loop may take derivatives of its gradient
    prior: Program | None = None  # these two by `scaled`
    scorer: Program | None = None

    def __init__(self, num_particles: int, beta: Beta, path_gradient: bool) -> None:
        # Of plates there is "data"; particles lie left of it.
        super().__init__(num_particles=num_particles, vectorize_particles=num_particles > 1, max_plate_nesting=1)
        self.beta, self.path_gradient = beta, path_gradient

    def scaled(self, beta: Beta = 1.0, *, prior: Program | None = None, scorer: Program | None = None) -> "Objective":
        """A copy whose β is that of this one times `beta`.

        `prior` is a guide whose q takes the place of the model's p(z): the posterior of the step before, say. `scorer`
        is a guide to score z under, in place of the one held fixed: for derivatives of a path gradient, to which the q
        held fixed is one more function of λ.
        """
        new = copy.copy(self)
        new.beta, new.prior, new.scorer = self.beta * beta, prior, scorer
        return new

    def _get_trace(self, model: Program, guide: Program, args: tuple, kwargs: dict) -> tuple[Any, Any]:
        def replayed(program: Program | None, trace: Any) -> Any:
            return program and poutine.trace(poutine.replay(program, trace=trace)).get_trace(*args, **kwargs)

        prior, scorer = (program and self._vectorized_num_particles(program) for program in (self.prior, self.scorer))
        with _ScaleLatents(self.beta):
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            guide_trace = self._shown(guide_trace, lambda trace: replayed(guide, trace))
            model_trace, prior_trace, score_trace = (replayed(each, guide_trace) for each in (model, prior, scorer))
        _check_sites(model_trace, guide_trace)
        for name, site in latent_sites_of(guide_trace):
            if not site["fn"].has_rsample:
                raise ValueError(f"guide site {name!r} has no rsample; use pyro.infer.Trace_ELBO")
            if prior_trace is not None:
                model_trace.nodes[name]["fn"] = prior_trace.nodes[name]["fn"]
            site["scored_by"] = None if score_trace is None else score_trace.nodes[name]["fn"]
            if self.path_gradient:
                site["fn"] = site["scored_by"] or held_fixed(site["fn"])
        with full_precision(args[0]):
            for trace in (model_trace, guide_trace):
                trace.compute_log_prob(lambda *at: scored(*at) and (self.scores_latents or at[1]["is_observed"]))
        return model_trace, guide_trace

    def _shown(self, guide_trace: Any, replayed: Callable[[Any], Any]) -> Any:
        """The trace whose draws model and densities see; `replayed` runs the guide again on the draws of another."""
        return guide_trace

    def traces(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Traces of model and guide with their log-densities, all particles in one."""
        (traces,) = self._get_traces(model, guide, args, kwargs)
        return traces

    def factors(self, guide_trace: Any) -> Any:
        """The sum of the guide's factors, a teaching term say, over the batch."""
        sites = (site["log_prob_sum"] for _, site in scored_sites(guide_trace) if site["is_observed"])
        return sum(sites) / self.num_particles

    @abstractmethod
    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """What to minimise, the negative bound, summed over the batch, in nats; `args[0]` is the data."""

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """The negative bound, detached."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """`differentiable_loss`, after its backward pass, detached."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.detach()


class ELBO(Objective):
    r"""`pyro.infer.Trace_ELBO` for reparameterised guides, with β, and without `.item()`.

    .. math:: L_\beta = E_{q(z \mid x)} [\log p(x \mid z)] - \beta \, KL(q(z \mid x) \,\|\, p(z))

    summed over the batch, in nats. At β = 1 and without path gradients, values and gradients are those of
    `Trace_ELBO`, bit for bit.

    Args:
        beta: Weight of the latent sites' log-densities, on both sides.
        num_particles: Draws of z a datapoint, in one vectorised pass.
        path_gradient: Score z under q held fixed: same value, less noise, as :math:`E_q \nabla \log q = 0` goes.

    References:
        beta-VAE (Higgins et al., 2017), openreview.net/forum?id=Sy2fzU9gl
        Sticking the Landing (Roeder et al., 2017), arXiv:1703.09194

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> guide = pv.AmortizedGuide(family, pv.nets.MLP((4,), (family.num_params,)))
    >>> pv.ELBO(num_particles=10)(model, guide)(torch.ones(8, 4)).shape  # a loss to call backward on
    torch.Size([])
    """

    @validated
    def __init__(self, beta: Beta = 1.0, *, num_particles: PositiveInt = 1, path_gradient: bool = True) -> None:
        super().__init__(num_particles, beta, path_gradient)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        return self.loss_of(*self.traces(model, guide, *args, **kwargs))

    def loss_of(self, model_trace: Any, guide_trace: Any) -> Tensor:
        """The loss from `traces`."""
        elbo: Any = sum(site["log_prob_sum"] for _, site in scored_sites(model_trace))
        for _, site in scored_sites(guide_trace):
            elbo = elbo - site["log_prob_sum"]
        return -elbo / self.num_particles


class Terms(NamedTuple):
    """The two sides of the ELBO, per datapoint, in nats.

    >>> Terms(recon=torch.tensor([-90.0]), kl=torch.tensor([20.0])).elbo(beta=0.5)
    tensor([-100.])
    """

    recon: Tensor  # (B,) E_q log p(x | z)
    kl: Tensor  # (B,) E_q [log q(z | x) - log p(z)]

    def elbo(self, beta: Beta = 1.0) -> Tensor:
        """recon - β kl, shape (B,)."""
        return self.recon - beta * self.kl


def sampler(family: Family, params: Rows) -> Any:
    """The guide that draws from q at fixed λ (B, P), as a program of x; None for None."""
    return None if params is None else lambda x: family.sample(params)


def kl_of_site(guide_site: Any, model_site: Any) -> Tensor:
    """KL of one latent site (..., B): in closed form where torch knows one, else from the draw.

    >>> q, p = (pyro.distributions.Normal(loc, 1.0) for loc in torch.tensor([0.0, 1.0]))
    >>> kl_of_site({"fn": q}, {"fn": p})
    tensor(0.5000)
    """
    q, p = guide_site["fn"], model_site["fn"]
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(guide_site["value"]) - p.log_prob(guide_site["value"])


@validated
def elbo_terms(
    model: Program, family: Family, x: Tensor, params: Tensor, num_particles: PositiveInt = 1, prior: Rows = None
) -> Terms:
    """Monte Carlo estimate of the ELBO's terms at λ = `params`, per datapoint; takes no gradient.

    Args:
        model: Pyro model of plate `"data"`; called with `x`, data (B, *x_shape).
        params: λ (B, P); `family` turns it into q.
        num_particles: Draws of z a datapoint.
        prior: λ (B, P) whose q takes the place of the model's p(z).

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> elbo_terms(model, family, torch.ones(8, 4), torch.zeros(8, 4)).kl.abs().max() < 1e-4  # λ = 0 is the prior
    tensor(True)
    """
    recon, kl = x.new_zeros(x.shape[0]), x.new_zeros(x.shape[0])
    objective = ELBO(num_particles=num_particles, path_gradient=False).scaled(prior=sampler(family, prior))
    objective.scores_latents = False  # what a KL in closed form makes needless
    with torch.no_grad(), pyro.validation_enabled(False):
        model_trace, guide_trace = objective.traces(model, sampler(family, params), x)
        with full_precision(x):
            for name, site in scored_sites(model_trace):
                if site["is_observed"]:
                    recon = recon + site["log_prob"].reshape(-1, x.shape[0]).mean(0)
                else:
                    kl = kl + kl_of_site(guide_trace.nodes[name], site).reshape(-1, x.shape[0]).mean(0)
    return Terms(recon, kl)


def common_noise(function: Callable[[Tensor], Result], *params: Tensor) -> list[Result]:
    """`function` of several λ, each from the same random draws, so that differences are precise.

    >>> first, second = common_noise(lambda row: row + torch.randn(2), torch.zeros(2), torch.ones(2))
    >>> second - first
    tensor([1., 1.])
    """
    state, results = noise_state(params[0].device), []
    for row in params:
        set_noise_state(state, row.device)
        results.append(function(row))
    return results


def common_noise_terms(
    model: Program, family: Family, x: Tensor, *params: Tensor, num_particles: int = 1, prior: Rows = None
) -> list[Terms]:
    """`elbo_terms` at several λ under common noise.

    >>> import pyrovae as pv
    >>> model, family, x = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2), torch.ones(8, 4)
    >>> [terms.kl.shape for terms in common_noise_terms(model, family, x, torch.zeros(8, 4), torch.ones(8, 4))]
    [torch.Size([8]), torch.Size([8])]
    """
    return common_noise(lambda row: elbo_terms(model, family, x, row, num_particles, prior), *params)


def _check_sites(model_trace: Any, guide_trace: Any) -> None:
    """Raises `ValueError` unless model and guide have the same latent sites, in the same plates."""
    model, guide = (
        {name: {frame.name for frame in site["cond_indep_stack"]} for name, site in latent_sites_of(trace)
         if not site["infer"].get("is_auxiliary")}
        for trace in (model_trace, guide_trace)
    )  # fmt: skip
    if model.keys() != guide.keys():
        sides = (f"{{{', '.join(sorted(side))}}}" for side in (model, guide))
        raise ValueError(
            "the model has latent sites {} and the guide's family {}; name them alike, or let Joint.of(model, x) "
            "make the family".format(*sides)
        )
    for name in model:
        if model[name] != guide[name]:
            inside = (", ".join(sorted(side[name])) or "none" for side in (model, guide))
            raise ValueError(
                'latent site {!r} lies in plates {} of the model and {} of the guide; put with pyro.plate("data", '
                "x.shape[0]) around what belongs to a datapoint, and nothing else around that".format(name, *inside)
            )

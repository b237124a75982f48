"""Annealed importance sampling, and bounds from both sides."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from ..capture import Capture
from ..families import Family
from ..validation import PositiveInt, validated
from .elbo import evaluating, frozen
from .hmc import Chains, Unconstrained, hmc_transition
from .importance import points_at_once
from .simulate import draw_joint

Start = Literal["q", "prior"]
Tensors = tuple[Tensor, ...]

STEEPNESS = 4.0  # of the schedule, as in Wu et al.


class Annealing:
    r"""Transitions along :math:`\log f_\beta(u) = \log f_0(u) + \beta \, [\log p(x, u) - \log f_0(u)]`, β from 0 to 1.

    f_0 is q(u | λ) or the prior p(u), u the coordinates of `Unconstrained`. Chains (C, B) are one batch, C outermost.
    Arguments and errors are those of `ais`.
    """

    def __init__(
        self, model: nn.Module, family: Family, x: Tensor, *, num_steps: int, num_leapfrog: int, start: Start
    ) -> None:
        if start == "q" and family.density != "any":
            name = type(family).__name__
            raise ValueError(f"start q needs the density of any z under q, which {name} lacks; set start='prior'")
        self.family, self.space, self.start = family, Unconstrained(model, x), start
        self.num_steps, self.num_leapfrog = num_steps, num_leapfrog
        self.num_batches = 1  # to come, which tells whether compiling pays
        level = (STEEPNESS * torch.linspace(-1, 1, num_steps + 1, dtype=torch.float64)).sigmoid()
        self.betas: list[float] = ((level - level[0]) / (level[-1] - level[0])).tolist()
        self.capture = Capture(self.terms, model, family, name="the density of annealing")

    def terms(self, x: Tensor, params: Tensor, u: Tensor) -> Tensors:
        """log f_0 and log p(x, u) - log f_0 at u, (B,) each, and their gradients, (B, D) each; to capture."""
        with torch.enable_grad(), pyro.validation_enabled(False):
            u = u.detach().requires_grad_()
            log_start, log_weight = self.space.log_densities(x, u)  # of the prior, and the likelihood
            if self.start == "q":
                log_q = self.space.log_q(self.family, params, u)
                log_start, log_weight = log_q, log_start + log_weight - log_q
            slopes = [
                torch.autograd.grad(value.sum(), u, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
                for value in (log_start, log_weight)
            ]
        return log_start.detach(), log_weight.detach(), *slopes

    def draw_start(self, x: Tensor, params: Tensor) -> Tensor:
        """u of draws from f_0."""
        with torch.no_grad(), pyro.validation_enabled(False):
            return self.space.draw_prior(x) if self.start == "prior" else self.space.draw_q(self.family, x, params)

    def bound(self, x: Tensor, params: Tensor, u: Tensor, num_transitions: int) -> Callable[[Tensor], Tensors]:
        """`terms` as a function of u alone, captured where so many transitions of each batch repay it."""
        calls = num_transitions * self.num_leapfrog * self.num_batches
        terms = self.capture.bind(x, params, u, calls=calls)
        return lambda u: terms(x, params, u)

    def run(
        self, x: Tensor, params: Tensor, num_chains: int, step_sizes: Sequence[Tensor], u: Tensor | None = None
    ) -> "Annealed":
        r"""From draws of f_0, :math:`E e^{\log w} = p(x)` for each chain.

        Or back from a posterior draw u (B, D) for each x, the same for all chains: :math:`E e^{-\log w} = 1 / p(x)`.
        """
        x, params = repeated(num_chains, x, params)
        intervals = range(1, self.num_steps + 1) if u is None else range(self.num_steps, 0, -1)
        u = self.draw_start(x, params) if u is None else repeated(num_chains, u)[0]
        terms = self.bound(x, params, u, self.num_steps)
        found, last = terms(u), None
        log_weight, acceptance = torch.zeros_like(found[0]), torch.zeros_like(found[0])
        for t in intervals:  # from β_{t-1} to β_t, with a transition where two meet
            if last is not None:
                meet = min(t, last)
                (size,) = repeated(num_chains, step_sizes[meet - 1])
                u, found, share = self.transition(terms, u, found, self.betas[meet], size)
                acceptance = acceptance + share
            log_weight, last = log_weight + (self.betas[t] - self.betas[t - 1]) * found[1], t
        acceptance = acceptance / max(1, self.num_steps - 1)
        return Annealed(log_weight.reshape(num_chains, -1), acceptance.reshape(num_chains, -1).mean(0))

    def transition(
        self, terms: Callable[[Tensor], Tensors], u: Tensor, found: Tensors, beta: float, size: Tensor
    ) -> tuple[Tensor, Tensors, Tensor]:
        """Moves chains at u, with `found` of `terms` there, by steps (C B,) at β: the same there, and acceptance."""

        def chains(u: Tensor, found: Tensors) -> Chains:
            log_start, log_weight, *slopes = found
            return Chains(u, log_start + beta * log_weight, slopes[0] + beta * slopes[1], found)

        there = chains(u, found)
        moved, acceptance = hmc_transition(lambda u: chains(u, terms(u)), there, size, self.num_leapfrog)
        return moved.position, moved.more, acceptance


def repeated(num: int, *tensors: Tensor) -> list[Tensor]:
    """Each `num` times over: rows for as many chains."""
    return [tensor.repeat(num, *[1] * (tensor.dim() - 1)) for tensor in tensors]


TARGET_ACCEPTANCE = 0.65  # the best share for long trajectories in many dimensions
MAX_CHAINS = 4
MIN_TRANSITIONS = 100  # on the way, however short the path is
WARMUP, FAST, SLOW = 20, 0.5, 0.2  # transitions before it, and how fast the log step size moves then and on the way


def tuned_step_sizes(annealing: Annealing, x: Tensor, params: Tensor, num_chains: int) -> tuple[Tensor, ...]:
    """Step sizes (B,) for each temperature but 0 and 1, from a run of a few chains of its own.

    Held fixed in the next run they leave its weights unbiased; step sizes that adapt within a run do not.
    """
    num, size = min(num_chains, MAX_CHAINS), x.new_full((x.shape[0],), 0.5)
    x, params = repeated(num, x, params)
    u = annealing.draw_start(x, params)
    stays = math.ceil(MIN_TRANSITIONS / annealing.num_steps)
    terms = annealing.bound(x, params, u, annealing.num_steps * stays)
    found, sizes = terms(u), []
    for t, beta in enumerate(annealing.betas[:-1]):
        for _ in range(stays if t else WARMUP):
            u, found, acceptance = annealing.transition(terms, u, found, beta, size.repeat(num))
            error = acceptance.reshape(num, -1).mean(0) - TARGET_ACCEPTANCE
            size = size * ((SLOW if t else FAST) * error).exp()
        sizes.append(size)
    return torch.stack(sizes)[1:].unbind()


class Annealed(NamedTuple):
    """What annealed importance sampling found.

    >>> Annealed(log_weights=torch.tensor([[0.0], [2.0]]), acceptance=torch.tensor([0.7])).bound
    tensor([1.4338])
    """

    log_weights: Tensor  # (C, B) nats
    acceptance: Tensor  # (B,) mean acceptance probability of the transitions

    @property
    def bound(self) -> Tensor:
        """The estimate of log p(x), (B,), which on average is below it; chains that failed weigh nothing."""
        weights = self.log_weights.nan_to_num(-math.inf, posinf=-math.inf, neginf=-math.inf)
        return weights.logsumexp(0) - math.log(len(weights))


@validated
def ais(
    model: nn.Module, family: Family, x: Tensor, params: Tensor, *, num_chains: PositiveInt = 16,
    num_steps: PositiveInt = 1000, num_leapfrog: PositiveInt = 5, start: Start = "q",
) -> Annealed:  # fmt: skip
    r"""log p(x) per datapoint by annealed importance sampling with Hamiltonian transitions.

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \, [\log p(x, z_{t-1}) - \log f_0(z_{t-1})], \qquad
        z_0 \sim f_0, \quad z_t \sim \mathcal{T}_{\beta_t}(z_t \mid z_{t-1})

    :math:`E \, w = p(x)`, so that the log of the chains' mean weight is below log p(x) on average, and closer the
    longer the path. At T = 1 it is the importance-weighted bound. Step sizes are tuned beforehand, by datapoint and
    temperature, to an acceptance of 0.65.

    Args:
        model, family, x, params: As in `elbo_terms`.
        num_chains: C.
        num_steps, num_leapfrog: T, and the steps of a transition.
        start: f_0: `q`, by far the nearer, or `prior`, which needs no density of q.

    Raises:
        ValueError: `q` as start for a family that cannot score any draw.

    References:
        Annealed importance sampling (Neal, 2001), arXiv:physics/9803008
        On the quantitative analysis of decoder-based generative models (Wu et al., 2017), arXiv:1611.04273

    >>> import pyrovae as pv
    >>> model, family, x = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2), torch.ones(8, 4)
    >>> ais(model, family, x, torch.zeros(8, 4), num_chains=4, num_steps=10).bound.shape
    torch.Size([8])
    """
    annealing = Annealing(model, family, x, num_steps=num_steps, num_leapfrog=num_leapfrog, start=start)

    def run(x: Tensor, params: Tensor) -> list[Annealed]:
        return [annealing.run(x, params, num_chains, tuned_step_sizes(annealing, x, params, num_chains))]

    return in_batches(annealing, run, num_chains, x, params)[0]


def in_batches(
    annealing: Annealing, run: Callable[..., Sequence[Annealed]], num_chains: int, x: Tensor, *rows: Tensor
) -> list[Annealed]:
    """`run` on as many datapoints at a time as one pass takes, put together again; the model stands still."""
    model, family = annealing.space.model, annealing.family
    with torch.inference_mode(False), torch.enable_grad(), frozen(model), frozen(family):
        all_rows = [part.detach().clone() if part.is_inference() else part.detach() for part in (x, *rows)]

        def score(size: int) -> None:
            x, params = (row[:1].expand(size, *row.shape[1:]) for row in all_rows[:2])
            annealing.terms(x, params, annealing.space.draw_prior(x))

        size = max(1, points_at_once(score, x.device) // num_chains)
        annealing.num_batches = math.ceil(len(x) / size)
        found = [run(*part) for part in zip(*(rows.split(size) for rows in all_rows), strict=True)]
    return [
        Annealed(torch.cat([one.log_weights for one in same], 1), torch.cat([one.acceptance for one in same]))
        for same in zip(*found, strict=True)
    ]


class Bidirectional(NamedTuple):
    """Bounds per datapoint, (B,), in nats.

    >>> Bidirectional._fields
    ('x', 'lower', 'upper', 'acceptance')
    """

    x: Tensor  # (B, *x_shape) data drawn from the model
    lower: Tensor  # below log p(x) on average
    upper: Tensor  # above it on average
    acceptance: Tensor  # mean acceptance probability, of both ways


@validated
def bidirectional(
    model: nn.Module, family: Family, infer: Callable[[Tensor], Tensor], like: Tensor, *, num_chains: PositiveInt = 16,
    num_steps: PositiveInt = 1000, num_leapfrog: PositiveInt = 5, start: Start = "q",
) -> Bidirectional:  # fmt: skip
    r"""log p(x) of data drawn from the model, between the bounds of bidirectional Monte Carlo.

    The z that made x is an exact draw from its posterior. From there the path of `ais` runs back to f_0, and

    .. math:: E \log \tfrac1C \sum_c w_c \;\le\; \log p(x) \;\le\; -E \log \tfrac1C \sum_c 1 / w'_c

    with w of the way there and w' of the way back. The gap bounds the error of `ais` on such data.

    Args:
        infer: x to λ.
        like: Data of the kind and number to draw, (B, *x_shape); its values do not matter. The others are as in `ais`.

    Raises:
        ValueError: As `ais`; and a model that does not draw x.

    Reference:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015), arXiv:1511.02543

    >>> import pyrovae as pv
    >>> model, family = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2)
    >>> found = bidirectional(model, family, lambda x: torch.zeros(8, 4), torch.ones(8, 4), num_chains=4, num_steps=10)
    >>> found.lower.shape, found.upper.shape
    (torch.Size([8]), torch.Size([8]))
    """
    annealing = Annealing(model, family, like, num_steps=num_steps, num_leapfrog=num_leapfrog, start=start)
    with evaluating(model):
        x, latent = draw_joint(model, like)
    u = annealing.space.coordinates({name: site["value"] for name, site in latent.items()})

    def run(x: Tensor, params: Tensor, u: Tensor) -> list[Annealed]:
        sizes = tuned_step_sizes(annealing, x, params, num_chains)
        return [annealing.run(x, params, num_chains, sizes, begin) for begin in (None, u)]

    there, back = in_batches(annealing, run, num_chains, x, infer(x), u)
    upper = math.log(num_chains) - (-back.log_weights).logsumexp(0)
    return Bidirectional(x, there.bound, upper, (there.acceptance + back.acceptance) / 2)

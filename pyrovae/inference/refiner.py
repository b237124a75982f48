"""The loop that improves λ: written once, whatever is climbed, by what steps, and whatever comes back through it."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..capture import Capture, held, programs_of
from ..families.base import Family
from ..validation import NonNegativeFloat, Number, PositiveFloat, PositiveInt, validated
from .elbo import ELBO, Beta, Objective, Rows, Terms, common_noise, elbo_terms, frozen
from .steps import SGD, Adam, AdaptiveStep, Settings, Step, SVIStep, weights
from .unrolled import Given, Gradient, Programs, depth_of, unrolled

# Attributes that no graph of a step holds fast.
_OF_LOOP = {"num_steps", "lr", "gradient", "checkpoint", "safeguard", "score_particles", "_arguments"}
CHECK_EVERY = 4  # steps between looks at which datapoints have stopped


class Inferred(NamedTuple):
    """The outcome of inference for a batch.

    >>> rows = torch.zeros(8, 4)
    >>> Inferred(init=rows, params=rows).attached  # nothing was refined
    True
    """

    init: Tensor  # (B, P) λ₀, attached to what proposed it
    params: Tensor  # (B, P) λ_K
    terms_init: Terms | None = None  # at λ₀ and at λ_K, under common noise, where a refiner scored them
    terms: Terms | None = None
    reverted: Tensor | None = None  # (B,) datapoints that kept λ₀ because refinement made them worse
    path: Tensor | None = None  # (K + 1, B, P) λ₀ ... λ_K before any was reverted, on request
    slope: Tensor | None = None  # (B, P) an unbiased estimate of the gradient of -L_β at λ₀, where a loop took one
    teaching: tuple[Tensor, ...] = ()  # losses (B,) in nats, of which only the gradients count; each teaches

    @property
    def attached(self) -> bool:
        """Whether gradients at λ_K reach what proposed λ₀, so that the ELBO itself teaches it."""
        return self.params is self.init or self.params.requires_grad


class Refiner(ABC):
    """A loop that improves λ: state in, result out, and nothing kept between calls but graphs, which the model keeps.

    A final class writes `make_step`. Rows, freezing, inference mode, gradients, recording, engine and safeguard are the
    loop's, and the same for all.

    >>> import pyrovae as pv
    >>> [isinstance(refiner, Refiner) for refiner in (pv.SVIRefiner(), pv.GaussNewtonRefiner())]
    [True, True]
    """

    num_steps: int  # K
    objective: Objective | None = None  # what is climbed, where that is a choice
    lr: float | Literal["auto"] = 1.0  # η; where it may be `auto`, a class writes `lr_of`
    gradient: str = "stopped"  # what comes back through the loop; this and the rest as in `SVIRefiner`
    checkpoint: bool = False
    stop_below: float | None = None
    safeguard: bool = False
    score_particles: int = 4

    def check(self, model: nn.Module, family: Family) -> None:  # noqa: B027 - most refine anything
        """Raises `ValueError` where this loop cannot refine λ of `family` under `model`, with the reason."""

    @abstractmethod
    def make_step(self, model: nn.Module, family: Family) -> Step:
        """The step that λ of `family` takes under `model`."""

    def lr_of(self, family: Family) -> float:
        """η for λ of `family`."""
        return float(self.lr)

    def programs(self, model: nn.Module, family: Family) -> Programs:
        """What the loop runs; kept by the model for as long as it lives."""

        def make() -> Programs:
            step = self.make_step(model, family)
            modules = [model, family, *([] if step.learned is None else [step.learned])]
            advance, pulled = Capture(step, *modules, name="the inner step"), getattr(step, "pulled", None)
            through = pulled and Capture(pulled, *modules, name="the gradient through the inner step")
            return Programs(step, advance, through)

        self.check(model, family)  # a loop may be called without a guide
        objects: list[Any] = []
        settings = tuple(_settings_of(self, objects))
        return programs_of(model).get(make, (family, *objects), type(self), *settings)

    def __call__(
        self, model: nn.Module, family: Family, x: Tensor, params: Tensor,
        beta: Beta = 1.0, record: bool = False, prior: Rows = None,
    ) -> Inferred:  # fmt: skip
        """Improves λ₀ = `params` (B, P) for data `x` (B, *x_shape).

        Args:
            model: Pyro model, held fixed.
            beta: Factor on the objective's weight of the KL term.
            record: Keep the path.
            prior: λ (B, P) whose q takes the place of the model's p(z): the posterior of the step before, say.

        Raises:
            ValueError: λ without a row for each datapoint, or what `check` finds.
        """
        check_rows(family, x, params=params, prior=prior)
        run, learns = self.programs(model, family), torch.is_grad_enabled()
        through = learns and self.gradient != "stopped" and (params.requires_grad or bool(weights(model, family)))
        learned = learns and run.step.learned is not None
        if through and run.pulled is None:
            raise ValueError(f"gradient {self.gradient} goes through steps of SVIRefiner, got {type(self).__name__}")
        # Lightning validates under inference mode, where autograd is off and SVI would move λ by zero.
        with torch.inference_mode(False), torch.set_grad_enabled(through or learned):
            x = x.clone() if x.is_inference() else x
            prior = prior.clone() if prior is not None and prior.is_inference() else prior
            start = params if through or learned else params.detach().clone()
            settings = Settings(
                *(scalar(value, start.detach()) for value in (beta, self.lr_of(family), self.num_steps))
            )
            given = x, settings, start, prior
            refined, slope, path, teaching = start, None, [start.detach()], list[Tensor]()
            states: Iterator[tuple[Tensor, Rows]] = self._run(
                model, family, run, given, eager=learned, still=not learns
            )
            if through:  # the ELBO at λ_K teaches, and no gradient on the way
                rows = unrolled(run, given, self.num_steps, depth_of(self.gradient), self.checkpoint)
                states = ((row, None) for row in rows)
            for row, gradient in states:
                if learned and gradient is not None:
                    teaching.append((gradient.detach() * refined).sum(-1))
                slope, refined = gradient if slope is None else slope, row
                if record:
                    path.append(row.detach())
            found = Inferred(params, refined, slope=slope, teaching=tuple(teaching))
            if self.safeguard:
                with frozen(model), frozen(family):
                    score = score_of(model, family, self.score_particles).bind(
                        x, start.detach(), prior, calls=2, still=not learns
                    )
                    weight = beta if self.objective is None else beta * self.objective.beta
                    found = _better(lambda row: score(x, row, prior), start, found, weight)
        return found._replace(path=torch.stack(path) if record else None)

    def _run(
        self, model: nn.Module, family: Family, run: Programs, given: Given, *, eager: bool, still: bool
    ) -> Iterator[tuple[Tensor, Rows]]:
        """λ_k (B, P) for k = 1, ..., K, and the gradient that led there, if a gradient did."""
        x, settings, start, prior = given
        state, num_left = run.step.init(start), run.step.num_looks + self.num_steps
        params, rows = start, None  # of `start` that are still at work; None for all
        with frozen(model), frozen(family):
            advance = run.step if eager else run.advance.bind(x, settings, state, prior, calls=num_left, still=still)
            for _ in range(run.step.num_looks):
                state = advance(x, settings, state, prior)
            for k in range(1, self.num_steps + 1):
                state = advance(x, settings, state, prior)
                params = state.params if rows is None else params.index_copy(0, rows, state.params)
                yield params, getattr(state, "gradient", None)
                if self.stop_below is None or k % CHECK_EVERY:
                    continue
                active = state.adaptive.active[:, 0].nonzero()[:, 0]  # waits for a GPU; only where datapoints may stop
                if len(active) == 0:
                    yield from [(params, None)] * (self.num_steps - k)
                    return
                if len(active) < len(state.params):
                    rows = active if rows is None else rows[active]
                    x, state, prior = _rows_of((x, state, prior), active)
                    advance = run.advance.bind(x, settings, state, prior, calls=self.num_steps - k, still=still)


class Rule(NamedTuple):
    """How an inner optimizer steps; arguments of `SVIRefiner`.

    >>> USUAL["adam"].lr
    0.03
    """

    lr: float
    momentum: float = 0.0
    clip: float | None = None
    lr_decay: str = "none"


# Measured: docs/results.md. None diverges with one draw, from 2 to 50 dimensions: tests/test_inner_steps.py.
USUAL = {
    "adam": Rule(lr=0.03),
    "sgd": Rule(lr=0.02, momentum=0.5, clip=10.0, lr_decay="linear"),
    "natural": Rule(lr=0.5, clip=2.0, lr_decay="linear"),
}
OWN_SGD = Rule(lr=0.02, momentum=0.5)  # where an `lr` is written


class SVIRefiner(Refiner):
    r"""K steps of stochastic variational inference on per-datapoint parameters.

    .. math:: \lambda_{k+1} = \lambda_k + \eta \, \nabla_\lambda \sum_i L_\beta(x_i, \lambda_{k,i})

    A genuine `pyro.infer.SVI` over a local guide. The objective is the sum over the batch and clipping is row by row,
    so a datapoint ends at the same λ alone and in any batch, given the same noise. The model's parameters neither move
    nor collect gradient.

    With a `gradient` other than `stopped` the ELBO at λ_K teaches what proposed λ₀, and the model through the loop too:

    .. math:: \frac{d L(\lambda_K, \theta)}{d \theta} = \frac{\partial L}{\partial \theta} + \frac{\partial
        L}{\partial \lambda_K} \frac{d \lambda_K}{d \theta}, \qquad \frac{d L}{d \lambda_0} = \frac{\partial
        L}{\partial \lambda_K} \prod_k \frac{\partial \lambda_{k+1}}{\partial \lambda_k}

    What is `auto` was measured to be best of what does not diverge, from 2 to 50 dimensions:

    =========  ====  ========  ====  ========
    optimizer  lr    momentum  clip  lr_decay
    =========  ====  ========  ====  ========
    adam       0.03            none  none
    sgd        0.02  0.5       10    linear
    natural    0.5   0         2     linear
    =========  ====  ========  ====  ========

    Where an `lr` is written, `optimizer: auto` is `adam`, and `sgd` neither clips nor decays unless told to.

    Args:
        num_steps: K.
        lr: Step size η.
        optimizer: `adam`; `sgd`; or `natural`, the same on natural gradients, for families that have them. There η is
            a share of the way; of the correlations of `FullNormal` it is S / (S + D + 1) at most, the best that S draws
            allow. `auto` is `natural` where the family has it, else `adam`.
        momentum: For `sgd` and `natural`.
        objective: What is climbed, L: `ELBO(num_particles=4)` for four draws of z a datapoint and step.
        clip: Largest norm of one datapoint's gradient, in nats per unit of λ; of `natural` in its own metric, so that a
            step without momentum moves q by a KL of about (η clip)² / 2 nats at most.
        lr_decay: `linear` lowers η to zero over the K steps; then `lr` can be larger.
        adapt, stop_below: As in `AdaptiveStep`.
        gradient: What comes back through the loop: nothing (`stopped`), so that the guide's `encoder_loss` teaches;
            gradients through all K steps (`unrolled`), through the last n, the others counting as the identity
            (`truncated(n)`), or through none, λ_K = λ₀ + const (`first_order`).
        checkpoint: Keep the states of λ only and run each step again in the backward pass: memory grows with K by a few
            rows, not by the networks' activations. Always so where the engine compiles.
        safeguard: Score λ₀ and λ_K under common noise, and keep λ₀ where λ_K is worse or not finite.
        score_particles: Draws of z a datapoint for those scores. With few, noise sends many a good λ_K back.

    Raises:
        ValueError: From `check`: a family or objective that lacks what `optimizer` or `gradient` takes, or `stop_below`
            with gradients.

    References:
        Stochastic Variational Inference (Hoffman et al., 2013), arXiv:1206.7051
        Semi-Amortized Variational Autoencoders (Kim et al., 2018), algorithm 2, arXiv:1802.02550
        Natural Gradient Works Efficiently in Learning (Amari, 1998), Neural Computation 10(2)
        The Bayesian Learning Rule (Khan & Rue, 2023), arXiv:2107.04562
        Truncated Back-propagation for Bilevel Optimization (Shaban et al., 2019), arXiv:1810.10667
        On First-Order Meta-Learning Algorithms (Nichol et al., 2018), arXiv:1803.02999

    >>> import pyrovae as pv
    >>> model, family, x = pv.models.mlp((4,), z_dim=2), pv.DiagonalNormal(2), torch.ones(8, 4)
    >>> inferred = pv.SVIRefiner(num_steps=20)(model, family, x, torch.zeros(8, family.num_params))
    >>> bool((inferred.terms.elbo() >= inferred.terms_init.elbo()).all())
    True
    """

    objective: Objective

    @validated
    def __init__(
        self, *, num_steps: PositiveInt = 10, lr: PositiveFloat | Literal["auto"] = "auto",
        optimizer: Literal["auto", "adam", "sgd", "natural"] = "auto",
        momentum: NonNegativeFloat | Literal["auto"] = "auto",
        objective: Objective = ELBO(),  # noqa: B008 - never written to
        clip: PositiveFloat | Literal["auto"] | None = "auto", lr_decay: Literal["auto", "none", "linear"] = "auto",
        adapt: NonNegativeFloat = 0.0, stop_below: Number | None = None,
        gradient: Gradient = "stopped", checkpoint: bool = False,
        safeguard: bool = True, score_particles: PositiveInt = 4,
    ) -> None:  # fmt: skip
        self.num_steps, self.lr, self.objective = num_steps, lr, objective
        self.optimizer, self.momentum, self.clip, self.lr_decay = optimizer, momentum, clip, lr_decay
        self.adapt, self.stop_below = adapt, stop_below
        self.gradient, self.checkpoint = gradient, checkpoint
        self.safeguard, self.score_particles = safeguard, score_particles

    def check(self, model: nn.Module, family: Family) -> None:
        name, objective = type(family).__name__, type(self.objective).__name__
        if self.optimizer == "natural" and not family.has_natural_gradient:
            raise ValueError(f"optimizer natural needs a family with a natural_gradient, got {name}; use adam")
        if family.density == "none" and self.objective.scores_latents:
            raise ValueError(f"objective {objective} scores draws, and {name} has no density; use AnalyticELBO")
        if self.gradient != "stopped" and self.stop_below is not None:
            raise ValueError(f"stop_below is for gradient stopped, got {self.gradient}; leave one of them out")
        if depth_of(self.gradient) == 0:
            return
        if self.objective.path_gradient and family.density != "any":
            raise ValueError(
                f"gradient {self.gradient} needs, with path gradients, the density of draws from another λ, which "
                f"{name} lacks; set objective ELBO(path_gradient=False)"
            )
        if not self.objective.twice_differentiable:
            raise ValueError(
                f"gradient {self.gradient} takes derivatives of the objective's gradient, which {objective} lacks so; "
                "set doubly_reparameterized=False"
            )

    def optimizer_of(self, family: Family) -> str:
        """The name of the optimizer for λ of `family`."""
        if self.optimizer != "auto":
            return self.optimizer
        return "natural" if family.has_natural_gradient and self.lr == "auto" else "adam"

    def rule(self, family: Family) -> Rule:
        """How λ of `family` steps, with what is `auto` filled in.

        >>> import pyrovae as pv
        >>> pv.SVIRefiner(clip=3.0).rule(pv.DiagonalNormal(2))
        Rule(lr=0.5, momentum=0.0, clip=3.0, lr_decay='linear')
        """
        written = {key: getattr(self, key) for key in Rule._fields if getattr(self, key) != "auto"}
        name = self.optimizer_of(family)
        return (OWN_SGD if name == "sgd" and "lr" in written else USUAL[name])._replace(**written)

    def lr_of(self, family: Family) -> float:
        return self.rule(family).lr

    def make_step(self, model: nn.Module, family: Family) -> SVIStep:
        name, rule = self.optimizer_of(family), self.rule(family)
        optimizer = Adam() if name == "adam" else SGD(rule.momentum)
        adapts = self.adapt > 0 or self.stop_below is not None
        adaptive = AdaptiveStep(self.adapt, self.stop_below) if adapts else None
        decay = rule.lr_decay == "linear"
        return SVIStep(model, family, self.objective, optimizer, name == "natural", adaptive, rule.clip, decay)


def scalar(value: Beta, like: Tensor) -> Tensor:
    """A number as a program takes it, a tensor of shape (); made on the device, for a copy from the host would wait."""
    return value.detach().to(like) if isinstance(value, Tensor) else like.new_full((), value)


def score_of(model: nn.Module, family: Family, num_particles: int) -> Capture:
    """(x, λ, prior) to the ELBO's terms, as a `Capture`; kept by the model."""

    def score(x: Tensor, params: Tensor, prior: Rows) -> Terms:
        return elbo_terms(model, family, x, params, num_particles, prior)

    def make() -> Capture:
        return Capture(score, model, family, name="the score of refinement")

    return programs_of(model).get(make, (family,), "score", num_particles)


def _better(score: Any, start: Tensor, found: Inferred, beta: Beta) -> Inferred:
    """λ_K where it is at least as good as the start, and the start where it is worse or not finite."""
    terms_init, terms = common_noise(score, start.detach(), found.params.detach())
    # Written so that NaN, which compares false with everything, counts as worse.
    better = (terms.elbo(beta) >= terms_init.elbo(beta)) & found.params.detach().isfinite().all(-1)
    terms = Terms(*(torch.where(better, new, old) for new, old in zip(terms, terms_init, strict=True)))
    params = torch.where(better[:, None], found.params, start)
    return found._replace(params=params, terms_init=terms_init, terms=terms, reverted=~better)


def _rows_of(value: Any, rows: Tensor) -> Any:
    """Those rows of every tensor in nested tuples; a counter stays."""
    if isinstance(value, tuple):
        parts = [_rows_of(part, rows) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value if value is None or value.dim() == 0 else value[rows]


def _settings_of(loop: Any, objects: list[Any]) -> Iterator[Hashable]:
    """The settings that the graph of a step holds fast, of an objective its kind too; `objects` as in `held`."""
    for name, value in vars(loop).items():
        if isinstance(value, Objective):
            yield type(value)
            yield from _settings_of(value, objects)
        elif name not in _OF_LOOP:
            yield held(value, objects)


def check_rows(family: Family, x: Tensor, **named: Rows) -> None:
    """Raises `ValueError` unless each λ has a row for each datapoint."""
    expected = x.shape[0], family.num_params
    for name, rows in named.items():
        if rows is not None and rows.shape != expected:
            raise ValueError(f"{name} must be {expected}, a row of λ for each of x, got {tuple(rows.shape)}")

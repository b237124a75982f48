"""The loop that improves λ."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from ..capture import Capture, engine
from ..families import Family
from .elbo import Terms, common_noise, elbo_terms, frozen
from .steps import SGD, Adam, Pace, SVIStep

MAX_PROGRAMS = 8

Made = TypeVar("Made")


class Programs(Generic[Made]):
    """The last few things that `make` made, by the objects and settings they were made of.

    Copies and pickles start empty, and capture anew.
    """

    def __init__(self) -> None:
        self._made: dict[tuple, tuple[tuple, Made]] = {}

    def get(self, make: Callable[[], Made], objects: tuple[Any, ...], *settings: Any) -> Made:
        """What was made of these `objects`, by identity, and `settings`, by value; made now if it was not."""
        key = *map(id, objects), *settings
        if key not in self._made:
            if len(self._made) == MAX_PROGRAMS:
                del self._made[next(iter(self._made))]  # the oldest
            self._made[key] = objects, make()  # with the objects, whose ids would else be given to others
        return self._made[key][1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": {}}


def scalar(value: float | Tensor, like: Tensor) -> Tensor:
    """A number as a program takes it, a tensor of shape (); made on the device, for a copy from the host would wait."""
    return value.to(like) if isinstance(value, Tensor) else like.new_full((), value)


class Inferred(NamedTuple):
    """The outcome of inference for a batch."""

    init: Tensor  # (B, P) λ₀, attached to what proposed it
    params: Tensor  # (B, P) λ_K
    terms_init: Terms | None = None  # at λ₀ and at λ_K, under common noise, where a refiner scored them
    terms: Terms | None = None
    reverted: Tensor | None = None  # (B,) datapoints that kept λ₀ because refinement made them worse
    path: Tensor | None = None  # (K + 1, B, P) λ₀ ... λ_K before any was reverted, on request
    slope: Tensor | None = None  # (B, P) an unbiased estimate of the gradient of -L_β at λ₀, where a refiner took one
    surrogate: Tensor | None = None  # (B,) of no meaning but its gradient, which teaches what the ELBO at λ_K cannot

    @property
    def attached(self) -> bool:
        """Whether gradients at λ_K reach what proposed λ₀, so that the ELBO itself teaches it."""
        return self.params is self.init or self.params.requires_grad


class Refiner(ABC):
    """A loop that improves λ: state in, result out, nothing kept between calls."""

    def check(self, model: nn.Module, family: Family) -> None:  # noqa: B027 - most refine anything
        """Raises `ValueError` where this loop cannot refine λ of `family` under `model`, with the reason."""

    @abstractmethod
    def __call__(
        self,
        model: nn.Module,
        family: Family,
        x: Tensor,
        params: Tensor,
        beta: float | Tensor = 1.0,
        record: bool = False,
    ) -> Inferred:
        """Improves λ₀ = `params` (B, P) for data `x` (B, *x_shape) under the ELBO with weight β.

        Args:
            model: Pyro model, held fixed.
            family: Turns λ into q.
            x: Data.
            params: λ₀.
            beta: Weight of the KL term.
            record: Keep the path.
        """


def check_rows(family: Family, x: Tensor, params: Tensor) -> None:
    """Raises `ValueError` unless λ has a row for each datapoint."""
    expected = len(x), family.num_params
    if params.shape != expected:
        raise ValueError(f"params must be {expected}, a row of λ for each of x, got {tuple(params.shape)}")


def keep_better(
    score: Callable[[Tensor], Terms], init: Tensor, start: Tensor, refined: Tensor, beta: float | Tensor
) -> Inferred:
    """λ_K where it is at least as good as the start, and the start where it is worse or not finite.

    Args:
        score: The ELBO's terms at a λ (B, P); called at both under common noise.
        init: λ₀ as it is to be returned, attached to what proposed it.
        start: Where the loop began (B, P).
        refined: Where it ended (B, P).
        beta: Weight of the KL term.
    """
    terms_init, terms = (Terms(*pair) for pair in common_noise(score, start.detach(), refined.detach()))
    # Written so that NaN, which compares false with everything, counts as worse.
    better = (terms.elbo(beta) >= terms_init.elbo(beta)) & refined.isfinite().all(-1)
    terms = Terms(*(torch.where(better, new, old) for new, old in zip(terms, terms_init, strict=True)))
    return Inferred(init, torch.where(better[:, None], refined, start), terms_init, terms, ~better)


def captured_score(model: nn.Module, family: Family, num_particles: int) -> Capture:
    """(x, λ) to the ELBO's terms, as a `Capture`."""

    def score(x: Tensor, params: Tensor) -> Terms:
        return elbo_terms(model, family, x, params, num_particles)

    return Capture(score, model, family, name="the score of refinement")


CHECK_EVERY = 4  # steps between looks at which datapoints have stopped


class SVIRefiner(Refiner):
    r"""K steps of stochastic variational inference on per-datapoint parameters.

    .. math:: \lambda_{k+1} = \lambda_k + \eta \, \nabla_\lambda \sum_i L_\beta(x_i, \lambda_{k,i})

    A genuine `pyro.infer.SVI` over a local guide. The objective is the sum over the batch and clipping is row by row,
    so a datapoint ends at the same λ alone and in any batch, given the same noise. Gradients are taken with respect to
    λ alone: the model's parameters neither move nor collect gradient.

    Args:
        num_steps: K.
        lr: Step size η.
        optimizer: `adam`; `sgd`; or `natural`, the same on natural gradients, for families that have them. There η is
            a share of the way, 0.3 say whatever the posterior's scale, and wants a `clip`, 2 say, for the way is found
            where q is, and may lead astray where q is far too wide.
        momentum: For `sgd` and `natural`.
        num_particles: Draws of z a datapoint and step.
        path_gradient: Leave out the gradient's score term, whose mean is zero: less noise, and none at the exact
            posterior.
        clip: Largest norm of one datapoint's gradient; none by default. Euclidean, in nats per unit of λ; of `natural`
            in its own metric, so that a step without momentum moves q by a KL of about (η clip)² / 2 nats at most.
        lr_decay: `linear` lowers η to zero over the K steps; then `lr` can be larger.
        adapt: Largest change of a datapoint's log step size in a step; see `Pace`.
        stop_below: A datapoint stops once a step is worth fewer nats; see `Pace`. By default all take all K steps.
        safeguard: Score λ₀ and λ_K under common noise, and keep λ₀ where λ_K is worse or not finite.
        score_particles: Draws of z a datapoint for those scores. With few, noise sends many a good λ_K back.

    Raises:
        ValueError: A number out of range, an unknown optimizer, or `natural` for a family without natural gradients.

    References:
        Stochastic Variational Inference (Hoffman et al., 2013), arXiv:1206.7051
        Semi-Amortized Variational Autoencoders (Kim et al., 2018), arXiv:1802.02550
        Sticking the Landing (Roeder et al., 2017), arXiv:1703.09194
        Natural Gradient Works Efficiently in Learning (Amari, 1998), Neural Computation 10(2)
        The Bayesian Learning Rule (Khan & Rue, 2023), arXiv:2107.04562
    """

    def __init__(
        self,
        *,
        num_steps: PositiveInt = 10,
        lr: PositiveFloat = 0.03,
        optimizer: Literal["adam", "sgd", "natural"] = "adam",
        momentum: NonNegativeFloat = 0.5,
        num_particles: PositiveInt = 1,
        path_gradient: bool = True,
        clip: PositiveFloat | None = None,
        lr_decay: Literal["none", "linear"] = "none",
        adapt: NonNegativeFloat = 0.0,
        stop_below: float | None = None,
        safeguard: bool = True,
        score_particles: PositiveInt = 4,
    ) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps must be >= 1, got {num_steps}; use AmortizedGuide for no refinement")
        for name, value in (("num_particles", num_particles), ("score_particles", score_particles)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if not lr > 0:
            raise ValueError(f"lr must be > 0, got {lr}")
        if optimizer not in ("adam", "sgd", "natural"):
            raise ValueError(f"optimizer must be adam, sgd or natural, got {optimizer!r}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be > 0, got {clip}; leave it out for no clipping")
        if lr_decay not in ("none", "linear"):
            raise ValueError(f"lr_decay must be none or linear, got {lr_decay!r}")
        if not adapt >= 0:
            raise ValueError(f"adapt must be >= 0, got {adapt}; 0 leaves step sizes alone")
        self.num_steps = num_steps
        self.lr = lr
        self.optimizer = optimizer
        self.momentum = momentum
        self.num_particles = num_particles
        self.path_gradient = path_gradient
        self.clip = clip
        self.lr_decay = lr_decay
        self.adapt = adapt
        self.stop_below = stop_below
        self.safeguard = safeguard
        self.score_particles = score_particles
        self._programs: Programs[tuple[SVIStep, Capture, Capture]] = Programs()

    def check(self, model: nn.Module, family: Family) -> None:
        if self.optimizer == "natural" and not family.has_natural_gradient:
            raise ValueError(
                f"optimizer natural needs a family with a natural_gradient, got {type(family).__name__}; "
                "use DiagonalNormal, FullNormal, Laplace or StudentT, or adam"
            )

    def __call__(
        self,
        model: nn.Module,
        family: Family,
        x: Tensor,
        params: Tensor,
        beta: float | Tensor = 1.0,
        record: bool = False,
    ) -> Inferred:
        check_rows(family, x, params)
        # Lightning validates under inference mode, where autograd is off and SVI moves λ by zero.
        with torch.inference_mode(False), torch.enable_grad(), frozen(model), frozen(family):
            x = x.clone() if x.is_inference() else x
            start = params.detach().clone()
            step, capture, score = self.programs(model, family)
            scalars = [scalar(value, start) for value in (beta, self.lr, self.num_steps)]
            refined, slope, path = self._loop(step, capture, x, start, scalars, record)
            if not self.safeguard:
                return Inferred(params, refined, path=path, slope=slope)
            scored = score.bind(x, start, calls=2)
            kept = keep_better(lambda row: Terms(*scored(x, row)), params, start, refined, beta)
        return kept._replace(path=path, slope=slope)

    def _loop(
        self, step: SVIStep, capture: Capture, x: Tensor, start: Tensor, scalars: list[Tensor], record: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        state = step.init(start)
        advance = capture.bind(x, *scalars, *state, calls=self.num_steps)
        rows: Tensor | None = None  # of `start` that are still at work; None for all
        params, slope, path = start, start, [start]
        for k in range(self.num_steps):
            state = advance(x, *scalars, *state)
            slope = state[2] if k == 0 else slope
            params = state[1] if rows is None else params.index_copy(0, rows, state[1])
            if record:
                path.append(params)
            if self.stop_below is not None and (k + 1) % CHECK_EVERY == 0:
                active = step.pace.active(state).nonzero()[:, 0]  # waits for a GPU; only where datapoints may stop
                if len(active) == 0:
                    path += [params] * (self.num_steps - 1 - k) if record else []
                    break
                if len(active) < len(state[1]):
                    rows = active if rows is None else rows[active]
                    x, state = x[active], tuple(part if part.dim() == 0 else part[active] for part in state)
        return params.detach(), slope, torch.stack(path) if record else None

    def programs(self, model: nn.Module, family: Family) -> tuple[SVIStep, Capture, Capture]:
        """The step and the scores for a model and family, with their captures."""
        settings = (value for name, value in vars(self).items() if name not in ("lr", "num_steps", "_programs"))
        return self._programs.get(lambda: self._make_programs(model, family), (model, family), *settings)

    def _make_programs(self, model: nn.Module, family: Family) -> tuple[SVIStep, Capture, Capture]:
        self.check(model, family)  # a loop may be called without a guide
        step = SVIStep(
            model,
            family,
            optimizer=Adam() if self.optimizer == "adam" else SGD(self.momentum),
            natural=self.optimizer == "natural",
            pace=Pace(self.adapt, self.stop_below),
            num_particles=self.num_particles,
            path_gradient=self.path_gradient,
            clip=self.clip,
            decay=self.lr_decay == "linear",
        )
        return (
            step,
            Capture(step, model, family, name="the inner step"),
            captured_score(model, family, self.score_particles),
        )


class CompiledRefiner(Refiner):
    """`refiner` under `engine("compiled")`: the same λ from the same noise, sooner.

    The first call captures the refiner's own step and scores as graphs and compiles them (`Capture`); what cannot be
    captured runs eagerly, after one warning.

    Args:
        refiner: `SVIRefiner`, or any whose loop runs a `Capture`.
    """

    def __init__(self, refiner: Refiner) -> None:
        self.refiner = refiner

    def check(self, model: nn.Module, family: Family) -> None:
        self.refiner.check(model, family)

    def __call__(
        self,
        model: nn.Module,
        family: Family,
        x: Tensor,
        params: Tensor,
        beta: float | Tensor = 1.0,
        record: bool = False,
    ) -> Inferred:
        with engine("compiled"):
            return self.refiner(model, family, x, params, beta, record)

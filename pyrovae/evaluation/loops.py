"""The loop by which a guide finds λ, with as many steps as asked for."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..guides import Guide, LearnedIterativeGuide, RefinedGuide
from ..inference import CompiledRefiner, Refiner, SVIRefiner, UnrolledRefiner


@dataclass(frozen=True)
class Loop:
    """A proposal and steps.

    Attributes:
        initial: x to λ₀ (B, P).
        path: (x, λ₀, num_steps) to λ₀ ... λ_K (K + 1, B, P).
        num_steps: K of training; none where there were no steps.
        settings: What the steps are, for people.
    """

    initial: Callable[[Tensor], Tensor]
    path: Callable[[Tensor, Tensor, int], Tensor]
    num_steps: int | None
    settings: dict[str, Any] = field(default_factory=dict)


def loop_of(model: Any, guide: Guide) -> Loop:
    """The guide's own loop, or, after one that takes no steps, that of a default `SVIRefiner`."""
    if isinstance(guide, LearnedIterativeGuide):
        return _learned(guide)
    if isinstance(guide, RefinedGuide):
        settings = _innermost(guide.refiner)
        num_steps = getattr(settings, "num_steps", None)
        if num_steps is not None:
            told = {"refiner": _name(guide.refiner), "lr_decay": getattr(settings, "lr_decay", "none")}
            return Loop(guide.initial, _refined(model, guide, guide.refiner), num_steps, told)
    told = {"refiner": "SVIRefiner by default, for the guide takes no steps of its own", "lr_decay": "none"}
    return Loop(lambda x: guide.infer(x).params, _refined(model, guide, SVIRefiner()), None, told)


def with_num_steps(refiner: Refiner, num_steps: int) -> Refiner:
    """A copy that takes so many steps, without safeguard; the one given stays as it is."""
    longer: Any = copy.copy(refiner)
    if isinstance(refiner, CompiledRefiner):
        longer.refiner = with_num_steps(refiner.refiner, num_steps)
    elif isinstance(refiner, UnrolledRefiner):
        longer.loop = with_num_steps(refiner.loop, num_steps)
    else:
        longer.num_steps, longer.safeguard = num_steps, False
    return longer


def _refined(model: Any, guide: Guide, refiner: Refiner) -> Callable[[Tensor, Tensor, int], Tensor]:
    def path(x: Tensor, init: Tensor, num_steps: int) -> Any:
        return with_num_steps(refiner, num_steps)(model, guide.family, x, init, record=True).path

    return path


def _learned(guide: LearnedIterativeGuide) -> Loop:
    def path(x: Tensor, init: Tensor, num_steps: int) -> Any:
        longer = copy.copy(guide)  # shares its weights
        longer.num_steps = num_steps
        return longer.infer(x, record=True).path

    told = {"refiner": "LearnedIterativeGuide", "lr_decay": "none"}
    return Loop(lambda x: guide.init_params.expand(x.shape[0], -1), path, guide.num_steps, told)


def _innermost(refiner: Any) -> Any:
    """The one that holds the settings."""
    if isinstance(refiner, CompiledRefiner):
        return _innermost(refiner.refiner)
    return refiner.loop if isinstance(refiner, UnrolledRefiner) else refiner


def _name(refiner: Any) -> str:
    name = type(refiner).__name__
    return f"{name}({_name(refiner.refiner)})" if isinstance(refiner, CompiledRefiner) else name

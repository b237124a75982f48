"""The loop by which a guide finds λ, with as many steps as asked for."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..guides import Guide, LearnedIterativeGuide
from ..inference import Refiner, SVIRefiner


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
    """The loop of the guide's refiner; without one, that of a default `SVIRefiner` from what the guide infers."""
    refiner = getattr(guide, "refiner", None)
    if isinstance(refiner, Refiner) and hasattr(guide, "initial"):
        name = type(guide if isinstance(guide, LearnedIterativeGuide) else refiner).__name__
        told = {"refiner": name, "start": "λ₀", "lr_decay": getattr(refiner, "lr_decay", "none")}
        return Loop(guide.initial, _refined(model, guide, refiner), refiner.num_steps, told)
    name = "SVIRefiner by default, for the guide has no refiner"
    told = {"refiner": name, "start": "what the guide infers", "lr_decay": "none"}
    return Loop(lambda x: guide.infer(x).params, _refined(model, guide, SVIRefiner()), None, told)


def with_num_steps(refiner: Refiner, num_steps: int) -> Refiner:
    """A copy that takes so many steps, without safeguard; the one given stays as it is."""
    longer = copy.copy(refiner)
    longer.num_steps, longer.safeguard = num_steps, False
    return longer


def _refined(model: Any, guide: Guide, refiner: Refiner) -> Callable[[Tensor, Tensor, int], Tensor]:
    def path(x: Tensor, init: Tensor, num_steps: int) -> Any:
        return with_num_steps(refiner, num_steps)(model, guide.family, x, init, record=True).path

    return path

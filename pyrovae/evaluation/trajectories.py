"""Refinement far beyond the steps of training."""

import copy
import math
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..guides import Guide, LearnedIterativeGuide
from ..inference import Refiner, SVIRefiner, precise_terms
from ..validation import ArgumentError
from .measurement import Measurement
from .subject import Subject

CHUNK_SIZE = 100  # datapoints whose path is kept at a time, and that are timed


class Loop(NamedTuple):
    """The loop by which a guide finds λ, with as many steps as asked for."""

    initial: Callable[[Tensor], Tensor]  # x to λ₀ (B, P)
    path: Callable[[Tensor, Tensor, int], Tensor]  # (x, λ₀, num_steps) to λ₀ ... λ_K (K + 1, B, P)
    num_steps: int | None  # K of training; none where there were no steps
    settings: dict[str, Any]  # what the steps are, for people


def loop_of(model: Any, guide: Guide) -> Loop:
    """The loop of the guide's refiner, without safeguard; else of a default `SVIRefiner` from what the guide infers."""
    own: Any = getattr(guide, "refiner", None)
    refines = isinstance(own, Refiner) and hasattr(guide, "initial")
    longer = copy.copy(own if refines else SVIRefiner())
    longer.safeguard = False

    def path(x: Tensor, init: Tensor, num_steps: int) -> Any:
        longer.num_steps = num_steps
        return longer(model, guide.family, x, init, record=True).path

    if not refines:
        name = "SVIRefiner by default, for the guide has no refiner"
        told = {"refiner": name, "start": "what the guide infers", "lr_decay": "none"}
        return Loop(lambda x: guide.infer(x).params, path, None, told)
    name = type(guide if isinstance(guide, LearnedIterativeGuide) else own).__name__
    told = {"refiner": name, "start": "λ₀", "lr_decay": getattr(own, "lr_decay", "none")}
    return Loop(guide.initial, path, own.num_steps, told)  # type: ignore[attr-defined, arg-type]


def trajectory(
    subject: Subject, *, num_steps: int | None = None, num_data: int = 200, num_particles: int = 50
) -> Measurement:
    r"""The ELBO along λ₀, λ₁, ..., far beyond the K steps of training.

    Steps are the guide's own: its refiner's, without safeguard, or its learned ones; after a guide that takes none,
    those of a default `SVIRefiner`. With `lr_decay` they are those of one long loop, which decays over all of them, so
    that λ_K of training is not on its path; `numbers` say so.

    Scored are the steps 0 ... 10, K, the last and some between, all under common noise. Seconds are those of λ₀ and of
    so many steps, each as long as in the longest run. `steps_to_99` is the first scored step with 99 % of the gain from
    λ₀ to the last.

    Args:
        subject: What was inferred.
        num_steps: How many; by default 10 K, and at least 100.
        num_data: Of the first so many datapoints.
        num_particles: Draws of z a datapoint and score.
    """
    for name, value in (("num_steps", num_steps), ("num_data", num_data)):
        if value is not None and value < 1:
            raise ArgumentError(f"{name} must be >= 1, got {value}")
    loop, x = loop_of(subject.model, subject.guide), subject.x[:num_data]
    if num_steps is None:
        num_steps = max(100, 10 * (loop.num_steps or 0))
    steps = scored_steps(num_steps, loop.num_steps)
    paths, moves, times = [], [], []
    with torch.no_grad():
        for chunk in x.split(CHUNK_SIZE):
            start, init, between = _clock(x), loop.initial(chunk), _clock(x)
            path = loop.path(chunk, init, num_steps).detach()  # (num_steps + 1, B, P)
            times.append(((between - start) / len(chunk), (_clock(x) - between) / len(chunk) / num_steps))
            paths.append(path[steps])
            moves.append((path[1:] - path[:-1]).norm(dim=-1))
    proposal, step = map(min, zip(*times, strict=True))  # of the chunk that waited least, for a compiler say
    params, norms = torch.cat(paths, 1), torch.cat(moves, 1)  # (steps, N, P), (num_steps, N)
    terms = precise_terms(subject.model, subject.family, x, *params, num_particles=num_particles)
    recon, kl = (torch.stack(side).double() for side in zip(*terms, strict=True))  # (steps, N) each
    finite = (recon - kl).isfinite().all(0)
    recon, kl, norms = recon[:, finite], kl[:, finite], norms[:, finite].double()
    elbo, rows = recon - kl, torch.arange(len(x))[finite.cpu()]
    scores = [subject.estimate(row, rows) for row in elbo]
    gain = (elbo - elbo[0]).mean(1)
    reached = [step for step, value in zip(steps, gain.tolist(), strict=True) if value >= 0.99 * gain[-1]]
    numbers = {
        "step": steps,
        "elbo": [score["mean"] for score in scores],
        "elbo_se": [score["se"] for score in scores],
        "recon": recon.mean(1).tolist(),
        "kl": kl.mean(1).tolist(),
        "step_norm": [norms[step - 1].mean().item() if step else math.nan for step in steps],  # that led to each λ
        "gain": subject.estimate(elbo[-1] - elbo[0], rows),
        "steps_to_99": reached[0] if gain[-1] > 0 else None,
        "seconds_per_image": [proposal + k * step for k in steps],
        "trained_num_steps": loop.num_steps,
        "num_data": len(rows),
        "timed_batch_size": len(x[:CHUNK_SIZE]),
        **loop.settings,
    }
    found = Measurement(numbers={"trajectory": numbers})
    found.draw("trajectory_long", trajectory_figure, numbers)
    if not finite.all():
        found.warnings.append(
            f"{int((~finite).sum())} of {len(x)} datapoints diverged within {num_steps} inner steps and are left out "
            "of the trajectory; lower the refiner's lr, or set its clip"
        )
    return found


def scored_steps(num_steps: int, trained: int | None) -> list[int]:
    """0 ... 10, then each half as many more, K of training and the last."""
    steps, step = {*range(min(10, num_steps) + 1), num_steps}, 15.0
    while step < num_steps:
        steps.add(round(step))
        step *= 1.5
    return sorted(steps | ({trained} if trained is not None and trained <= num_steps else set()))


def _clock(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return perf_counter()


def trajectory_figure(numbers: dict[str, Any]) -> Figure:
    """ELBO, reconstruction and KL against inner steps, and the ELBO against time, from numbers of `trajectory`."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps, trained = numbers["step"], numbers["trained_num_steps"]
    for name, sign, style in (("elbo", 1, "C0o-"), ("recon", 1, "C1--"), ("kl", -1, "C2:")):
        label = {"elbo": "ELBO", "recon": "reconstruction", "kl": "−KL"}[name]
        left.plot(steps, [sign * (value - numbers[name][0]) for value in numbers[name]], style, ms=3, label=label)
    left.set_xscale("symlog", linthresh=1, linscale=0.3)
    ticks = [0, *(mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5))]
    left.set_xticks(shown := [tick for tick in ticks if tick <= steps[-1]], map(str, shown))
    left.minorticks_off()
    title = f"Refinement gains {numbers['elbo'][-1] - numbers['elbo'][0]:.2f} nats in {steps[-1]} steps"
    if numbers["steps_to_99"] is not None:
        title += f";\n99 % of it in {numbers['steps_to_99']}"
    left.set(xlabel="inner step k", ylabel=f"change from {numbers['start']} (nats a datapoint)", title=title)
    time = [1000 * value for value in numbers["seconds_per_image"]]
    right.plot(time, numbers["elbo"], "C0o-", ms=3)
    right.set(
        xlabel="time from x to λ_k (ms a datapoint)", ylabel="ELBO at λ_k (nats a datapoint)", title="What it costs"
    )
    if trained in steps:
        for axes, place in ((left, trained), (right, time[steps.index(trained)])):
            axes.axvline(place, color="grey", linewidth=1, label=f"K = {trained} of training")
        right.legend(fontsize=8)
    left.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure

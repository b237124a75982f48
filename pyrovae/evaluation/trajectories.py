"""Refinement far beyond the steps of training."""

import copy
import math
from time import perf_counter
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..guides import LearnedIterativeGuide
from ..inference import Refiner, SVIRefiner, precise_terms
from ..validation import PositiveInt, validated
from .subject import Measurement, Subject, panels

CHUNK_SIZE = 100  # datapoints whose path is kept at a time, and that are timed


@validated
def trajectory(
    subject: Subject, *, num_steps: PositiveInt | None = None, num_data: PositiveInt = 200, num_particles: int = 50
) -> Measurement:
    r"""The ELBO along λ₀, λ₁, ..., far beyond the K steps of training.

    Steps are the guide's own: its refiner's, without safeguard, or its learned ones; after a guide that takes none,
    those of a default `SVIRefiner` from what it infers. With `lr_decay` they are those of one long loop, which decays
    over all of them, so that λ_K of training is not on its path; `numbers` say so. There are `num_steps`, by default
    10 K and at least 100, of the first `num_data` datapoints. Scored are the steps 0 ... 10, K, the last and some
    between, all under common noise, `num_particles` draws of z. Seconds are those of λ₀ and of so many steps.
    `steps_to_99` is the first scored step with 99 % of the gain from λ₀ to the last.
    """
    x, guide, model = subject.x[:num_data], subject.guide, subject.model
    own: Any = getattr(guide, "refiner", None)
    refines = isinstance(own, Refiner) and hasattr(guide, "initial")
    longer, trained = copy.copy(own if refines else SVIRefiner()), own.num_steps if refines else None
    longer.safeguard, longer.num_steps = False, num_steps or max(100, 10 * (trained or 0))
    steps = scored_steps(longer.num_steps, trained)
    refiner = type(guide if isinstance(guide, LearnedIterativeGuide) else own).__name__
    paths, moves, times = [], [], []
    with torch.no_grad():
        for chunk in x.split(CHUNK_SIZE):
            start = _clock(x)
            init = guide.initial(chunk) if refines else guide.infer(chunk).params  # type: ignore[operator]
            between = _clock(x)
            path: Any = longer(model, guide.family, chunk, init, record=True).path  # (num_steps + 1, B, P)
            times.append(((between - start) / len(chunk), (_clock(x) - between) / len(chunk) / longer.num_steps))
            paths.append(path[steps].detach())
            moves.append((path[1:] - path[:-1]).detach().norm(dim=-1))
    proposal, step = map(min, zip(*times, strict=True))  # of the chunk that waited least, for a compiler say
    params, norms = torch.cat(paths, 1), torch.cat(moves, 1)  # (steps, N, P), (num_steps, N)
    terms = precise_terms(model, guide.family, x, *params, num_particles=num_particles)
    recon, kl = (torch.stack(side).double() for side in zip(*terms, strict=True))  # (steps, N) each
    finite = (recon - kl).isfinite().all(0)
    recon, kl, norms = recon[:, finite], kl[:, finite], norms[:, finite].double()
    elbo, rows = recon - kl, finite.cpu().nonzero()[:, 0]
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
        "trained_num_steps": trained,
        "num_data": len(rows),
        "timed_batch_size": len(x[:CHUNK_SIZE]),
        "refiner": refiner if refines else "SVIRefiner by default, for the guide has no refiner",
        "start": "λ₀" if refines else "what the guide infers",
        "lr_decay": longer.rule(guide.family).lr_decay if isinstance(longer, SVIRefiner) else "none",
    }
    found = Measurement({"trajectory": numbers})
    found.draw("trajectory_long", trajectory_figure, numbers)
    text = f"datapoints diverged within {longer.num_steps} inner steps and are left out of the trajectory"
    found.warn_of(~finite, f"{text}; lower the refiner's lr, or set its clip")
    return found


def scored_steps(num_steps: int, trained: int | None) -> list[int]:
    """0 ... 10, then each half as many more, K of training and the last."""
    steps = {*range(11), *(round(15 * 1.5**k) for k in range(40)), trained or 0, num_steps}
    return sorted(step for step in steps if step <= num_steps)


def _clock(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return perf_counter()


def trajectory_figure(numbers: dict[str, Any]) -> Figure:
    """ELBO, reconstruction and KL against inner steps, and the ELBO against time, from numbers of `trajectory`."""
    figure, (left, right) = panels(8, 3.6, 2)
    steps, trained = numbers["step"], numbers["trained_num_steps"]
    lines = {"elbo": ("ELBO", 1, "C0o-"), "recon": ("reconstruction", 1, "C1--"), "kl": ("−KL", -1, "C2:")}
    for name, (label, sign, style) in lines.items():
        left.plot(steps, [sign * (value - numbers[name][0]) for value in numbers[name]], style, ms=3, label=label)
    left.set_xscale("symlog", linthresh=1, linscale=0.3)
    ticks = [0, *(mantissa * 10**power for power in range(6) for mantissa in (1, 2, 5))]
    left.set_xticks(shown := [tick for tick in ticks if tick <= steps[-1]], map(str, shown))
    left.minorticks_off()
    title = f"Refinement gains {numbers['elbo'][-1] - numbers['elbo'][0]:.2f} nats in {steps[-1]} steps"
    title += "" if numbers["steps_to_99"] is None else f";\n99 % of it in {numbers['steps_to_99']}"
    left.set(xlabel="inner step k", ylabel=f"change from {numbers['start']} (nats a datapoint)", title=title)
    time = [1000 * value for value in numbers["seconds_per_image"]]
    right.plot(time, numbers["elbo"], "C0o-", ms=3)
    right.set(xlabel="time from x to λ_k (ms a datapoint)", ylabel="ELBO at λ_k (nats a datapoint)")
    right.set_title("What it costs")
    if trained in steps:
        for axes, place in ((left, trained), (right, time[steps.index(trained)])):
            axes.axvline(place, color="grey", linewidth=1, label=f"K = {trained} of training")
        right.legend(fontsize=8)
    left.legend(fontsize=8)
    return figure

"""Refinement far beyond the steps of training."""

import math
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..inference import precise_terms
from .findings import Findings, estimate
from .loops import Loop, loop_of
from .subject import Subject
from .trajectory_figure import trajectory_figure

CHUNK_SIZE = 100  # datapoints whose path is kept at a time, and that are timed


def trajectory(
    subject: Subject, *, num_steps: int | None = None, num_data: int = 200, num_particles: int = 50
) -> Findings:
    r"""The ELBO along λ₀, λ₁, ..., far beyond the K steps of training.

    Steps are the guide's own: its refiner's, without safeguard, or its learned ones; after a guide that takes none,
    those of a default `SVIRefiner`. With `lr_decay` they are those of one long loop, which decays over all of them, so
    that λ_K of training is not on its path; `numbers` say so.

    Scored are the steps 0 ... 10, K, the last and some between, all under common noise. Their seconds are those of a
    run of just so many steps, from x on, warm, scoring not counted. `steps_to_99` is the first scored step with 99 % of
    the gain from λ₀ to the last.

    Args:
        subject: What was inferred.
        num_steps: How many; by default 10 K, and at least 100.
        num_data: Of the first so many datapoints.
        num_particles: Draws of z a datapoint and score.

    Raises:
        ValueError: A number below 1.
    """
    for name, value in (("num_steps", num_steps), ("num_data", num_data), ("num_particles", num_particles)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    loop, x = loop_of(subject.model, subject.guide), subject.x[:num_data]
    if num_steps is None:
        num_steps = max(100, 10 * (loop.num_steps or 0))
    steps = scored_steps(num_steps, loop.num_steps)
    params, norms = _run(loop, x, num_steps, steps)
    terms = precise_terms(subject.model, subject.family, x, *params, num_particles=num_particles)
    recon, kl = torch.stack([t.recon for t in terms]), torch.stack([t.kl for t in terms])  # (steps, N)
    finite = (recon - kl).isfinite().all(0)
    numbers = {
        **_curves(steps, recon[:, finite], kl[:, finite], norms[:, finite]),
        "seconds_per_image": _seconds_per_image(loop, x[:CHUNK_SIZE], steps),
        "trained_num_steps": loop.num_steps,
        "num_data": int(finite.sum()),
        "timed_batch_size": len(x[:CHUNK_SIZE]),
        **loop.settings,
    }
    findings = Findings(numbers={"trajectory": numbers}, figures={"trajectory_long": trajectory_figure(numbers)})
    if not finite.all():
        findings.warnings.append(
            f"{int((~finite).sum())} of {len(x)} datapoints diverged within {num_steps} inner steps and are left out "
            "of the trajectory; lower the refiner's lr, or set its clip"
        )
    return findings


def scored_steps(num_steps: int, trained: int | None) -> list[int]:
    """0 ... 10, then each half as many more, K of training and the last."""
    steps, step = {*range(min(10, num_steps) + 1), num_steps}, 15.0
    while step < num_steps:
        steps.add(round(step))
        step *= 1.5
    return sorted(steps | ({trained} if trained is not None and trained <= num_steps else set()))


def _run(loop: Loop, x: Tensor, num_steps: int, steps: list[int]) -> tuple[list[Tensor], Tensor]:
    """λ (N, P) at each of `steps`, and the norm of every step (num_steps, N)."""
    rows, norms = [], []
    with torch.no_grad():
        for chunk in x.split(CHUNK_SIZE):
            path = loop.path(chunk, loop.initial(chunk), num_steps).detach()  # (num_steps + 1, B, P)
            rows.append(path[steps])
            norms.append((path[1:] - path[:-1]).norm(dim=-1))
    return list(torch.cat(rows, 1)), torch.cat(norms, 1)


def _curves(steps: list[int], recon: Tensor, kl: Tensor, norms: Tensor) -> dict[str, Any]:
    """Means over datapoints of terms (steps, N) and of norms (num_steps, N)."""
    recon, kl, norms = recon.double(), kl.double(), norms.double()
    elbo = recon - kl
    scores = [estimate(row) for row in elbo]
    gain = (elbo - elbo[0]).mean(1)
    reached = [step for step, value in zip(steps, gain.tolist(), strict=True) if value >= 0.99 * gain[-1]]
    return {
        "step": steps,
        "elbo": [score["mean"] for score in scores],
        "elbo_se": [score["se"] for score in scores],
        "recon": recon.mean(1).tolist(),
        "kl": kl.mean(1).tolist(),
        # Of the step that led to each λ; none led to λ₀.
        "step_norm": [norms[step - 1].mean().item() if step else math.nan for step in steps],
        "gain": estimate(elbo[-1] - elbo[0]),
        "steps_to_99": reached[0] if gain[-1] > 0 else None,
    }


def _seconds_per_image(loop: Loop, x: Tensor, steps: list[int]) -> list[float]:
    """Wall time of a run of so many steps from x on, by image."""
    with torch.no_grad():
        loop.path(x, loop.initial(x), 1)  # warm
        times = [min(_seconds(loop, x, step) for _ in range(3 if step <= 20 else 1)) / len(x) for step in steps]
    for i in reversed(range(len(times) - 1)):  # fewer steps take no longer than more: what they did was another's work
        times[i] = min(times[i], times[i + 1])
    return times


def _seconds(loop: Loop, x: Tensor, num_steps: int) -> float:
    start = _clock(x)
    init = loop.initial(x)
    if num_steps > 0:
        loop.path(x, init, num_steps)
    return _clock(x) - start


def _clock(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return perf_counter()

"""Annealed importance sampling, and how far off it is."""

from typing import Any, Literal

import torch
from torch import Tensor

from ..inference import ais, bidirectional
from ..validation import ArgumentError
from .measurement import Measurement, estimate
from .subject import Subject

LARGE_GAP = 1.0  # nats
LOW_ACCEPTANCE = 0.4


def annealed(
    subject: Subject, *, num_data: int = 100, num_simulated: int = 100, num_chains: int = 8, num_steps: int = 500,
    num_leapfrog: int = 5, start: Literal["q", "prior"] | None = None, log_evidence: Tensor | None = None,
) -> Measurement:  # fmt: skip
    r"""log p(x) by annealed importance sampling, and its error on data drawn from the model; in nats.

    On the first `num_data` datapoints, `ais`: a lower bound on average, tighter than the importance-weighted one where
    q is far from the posterior. On simulated data, `bdmc`: bounds from both sides,

    .. math:: E \, \hat L_{forward} \le \log p(x) \le E \, \hat L_{reverse}

    whose gap is what `ais` may be off by, as far as the data resemble what the model makes.

    Args:
        subject: What is measured; λ_K is where chains start.
        num_data, num_simulated: Datapoints, from the first on, and simulated ones; 0 for none.
        num_chains, num_steps, num_leapfrog: As in `ais`.
        start: `q` or `prior`; by default q where it can score any draw.
        log_evidence: Another estimate for each datapoint (N,), to be compared with, datapoint by datapoint.

    Raises:
        ValueError: A number out of range, or a start that the family does not allow.

    References:
        On the quantitative analysis of decoder-based generative models (Wu et al., 2017), arXiv:1611.04273
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015), arXiv:1511.02543
    """
    for name, value in (("num_data", num_data), ("num_simulated", num_simulated)):
        if value < 0:
            raise ArgumentError(f"{name} must be >= 0, got {value}")
    path: dict[str, Any] = {"num_chains": num_chains, "num_steps": num_steps, "num_leapfrog": num_leapfrog}
    path["start"] = start or ("q" if subject.family.density == "any" else "prior")
    found = Measurement()
    if num_data > 0:
        _on_data(found, subject, num_data, path, log_evidence)
    if num_simulated > 0:
        _on_simulated(found, subject, num_simulated, path)
    if low := {name: part["acceptance"] for name, part in found.numbers.items() if part["acceptance"] < LOW_ACCEPTANCE}:
        text = f"annealing accepts few moves ({', '.join(low)}: {min(low.values()):.2f}), so its bounds are loose"
        found.warnings.append(f"{text}; take more steps")
    return found


def _on_data(found: Measurement, subject: Subject, num: int, path: dict[str, Any], evidence: Tensor | None) -> None:
    x = subject.x[:num]
    result = ais(subject.model, subject.family, x, subject.params[:num], **path)
    _finite(found, "annealed bounds", result.bound, "look at their data and λ for values out of range")
    found.values["ais"], first = result.bound, slice(num)
    acceptance = result.acceptance.mean().item()
    part = found.numbers["ais"] = {
        **subject.estimate(result.bound, first),
        "num_data": len(x),
        "acceptance": acceptance,
    }
    part |= path
    if evidence is not None:
        part["minus_log_evidence"] = subject.estimate(result.bound - evidence[first].to(result.bound), first)


def _on_simulated(found: Measurement, subject: Subject, num: int, path: dict[str, Any]) -> None:
    def infer(x: Tensor) -> Tensor:
        with torch.no_grad():
            return subject.guide.infer(x).params

    like = subject.x[:1].expand(num, *subject.x.shape[1:])
    result = bidirectional(subject.model, subject.family, infer, like, **path)
    gap = result.upper - result.lower
    far = "; if q is far from the posteriors of simulated data, start='prior'" if path["start"] == "q" else ""
    good = _finite(found, "bounds of simulated data", gap, f"take more steps{far}")
    found.values.update(bdmc_lower=result.lower, bdmc_upper=result.upper)
    sides = {"lower": result.lower, "upper": result.upper, "gap": gap}
    found.numbers["bdmc"] = {
        **{name: estimate(side[good]) for name, side in sides.items()},
        "num_data": num,
        "acceptance": result.acceptance.mean().item(),
        **path,
    }
    mean = found.numbers["bdmc"]["gap"]["mean"]
    if mean > LARGE_GAP:
        found.warnings.append(
            f"on simulated data the two sides of annealing are {mean:.1f} nats apart, so it is not yet a measure of "
            f"log p(x); take more steps or chains{far}"
        )


def _finite(found: Measurement, what: str, values: Tensor, remedy: str) -> Tensor:
    """Which datapoints have finite numbers; says so where not all."""
    good = values.isfinite()
    if not good.all():
        found.warnings.append(
            f"{int((~good).sum())} of {len(good)} {what} are not finite; means leave them out; {remedy}"
        )
    return good

"""Annealed importance sampling, and how far off it is."""

from typing import Any, Literal

import torch
from torch import Tensor

from ..inference import ais, bidirectional
from .bounds_figure import bounds_figure
from .findings import Findings, estimate
from .subject import Subject

LARGE_GAP = 1.0  # nats
LOW_ACCEPTANCE = 0.4


def annealed(
    subject: Subject,
    *,
    num_data: int = 100,
    num_simulated: int = 100,
    num_chains: int = 8,
    num_steps: int = 500,
    num_leapfrog: int = 5,
    start: Literal["q", "prior"] | None = None,
    bounds: Findings | None = None,
) -> Findings:
    r"""log p(x) by annealed importance sampling, and its error on data drawn from the model; in nats.

    On the first `num_data` datapoints, `ais`: a lower bound on average, tighter than the importance-weighted one where
    q is far from the posterior. On simulated data, `bdmc`: bounds from both sides,

    .. math:: E \, \hat L_{forward} \le \log p(x) \le E \, \hat L_{reverse}

    whose gap is what `ais` may be off by, as far as the data resemble what the model makes.

    Args:
        subject: What is measured; λ_K is where chains start.
        num_data: Datapoints, from the first on; 0 for none.
        num_simulated: Simulated datapoints; 0 for none.
        num_chains, num_steps, num_leapfrog: As in `ais`.
        start: `q` or `prior`; by default q where it can score any draw.
        bounds: What `bounds` found for the same subject, to be compared with, datapoint by datapoint.

    Raises:
        ValueError: A number out of range, or a start that the family does not allow.

    References:
        On the quantitative analysis of decoder-based generative models (Wu et al., 2017), arXiv:1611.04273
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015), arXiv:1511.02543
    """
    for name, value in (("num_data", num_data), ("num_simulated", num_simulated)):
        if value < 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    path: dict[str, Any] = {"num_chains": num_chains, "num_steps": num_steps, "num_leapfrog": num_leapfrog}
    path["start"] = start or ("q" if subject.family.density == "any" else "prior")
    found = Findings()
    if num_data > 0:
        _on_data(found, subject, num_data, path, bounds)
    if num_simulated > 0:
        _on_simulated(found, subject, num_simulated, path)
    low = [name for name, part in found.numbers.items() if part["acceptance"] < LOW_ACCEPTANCE]
    if low:
        found.warnings.append(
            f"annealing accepts few moves ({', '.join(low)}: {found.numbers[low[0]]['acceptance']:.2f}), so its "
            "bounds are loose; take more steps"
        )
    return found


def _on_data(found: Findings, subject: Subject, num: int, path: dict[str, Any], bounds: Findings | None) -> None:
    x, params = subject.x[:num], subject.params[:num]
    result = ais(subject.model, subject.family, x, params, **path)
    good = _finite(found, "annealed bounds", result.bound)
    part = {**estimate(result.bound[good]), "num_data": len(x), "acceptance": result.acceptance.mean().item(), **path}
    found.values["ais"] = result.bound
    found.numbers["ais"] = part
    if bounds is not None:
        difference = result.bound - bounds.values["iwae"][:num].to(result.bound)
        part["minus_iwae"] = estimate(difference[difference.isfinite()])
        found.figures["bounds"] = bounds_figure({**bounds.numbers, "ais": part})


def _on_simulated(found: Findings, subject: Subject, num: int, path: dict[str, Any]) -> None:
    def infer(x: Tensor) -> Tensor:
        with torch.no_grad():
            return subject.guide.infer(x).params

    like = subject.x[:1].expand(num, *subject.x.shape[1:])
    result = bidirectional(subject.model, subject.family, infer, like, **path)
    gap = result.upper - result.lower
    good = _finite(found, "bounds of simulated data", gap)
    found.values.update(bdmc_lower=result.lower, bdmc_upper=result.upper)
    found.numbers["bdmc"] = {
        "lower": estimate(result.lower[good]),
        "upper": estimate(result.upper[good]),
        "gap": estimate(gap[good]),
        "num_data": num,
        "acceptance": result.acceptance.mean().item(),
        **path,
    }
    mean = found.numbers["bdmc"]["gap"]["mean"]
    if mean > LARGE_GAP:
        found.warnings.append(
            f"on simulated data the two sides of annealing are {mean:.1f} nats apart, so it is not yet a measure of "
            "log p(x); take more steps or chains"
        )


def _finite(found: Findings, what: str, values: Tensor) -> Tensor:
    """Which datapoints have finite numbers; says so where not all."""
    good = values.isfinite()
    if not good.all():
        text = f"{int((~good).sum())} of {len(good)} {what} are not finite; means leave them out"
        found.warnings.append(f"{text}; look at their data and λ for values out of range")
    return good

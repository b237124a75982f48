"""Where the ELBO falls short of the evidence."""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from ..inference import iwae, optimum, precise_terms
from .findings import Findings, estimate
from .subject import Subject


def gaps(
    subject: Subject,
    log_evidence: Tensor,
    *,
    num_samples: int = 1000,
    num_particles: int = 100,
    tolerance: float = 0.02,
    max_steps: int = 5000,
) -> Findings:
    r"""The inference gap, taken apart, per datapoint, in nats.

    .. math:: \log p(x) - L[q_{\lambda_K}] = \underbrace{\log p(x) - L[q^*]}_\text{approximation} +
        \underbrace{L[q^*] - L[q_{\lambda_K}]}_\text{remaining}, \qquad
        \underbrace{L[q^*] - L[q_{\lambda_0}]}_\text{amortization} = \text{recovered} + \text{remaining}

    with q* the best member of the family for each datapoint (`optimum`), and recovered :math:`= L[q_{\lambda_K}] -
    L[q_{\lambda_0}]` what refinement gains. For log p(x) stands a bound, so the approximation gap, and the whole, are
    underestimates: the higher in the mean of the given one and the importance-weighted bound at q*.

    Weights that the family's datapoints share, a flow's say, are held still: what they lack is in the approximation
    gap. All ELBOs are from the same fresh draws, none of which q* was chosen by.

    Args:
        subject: What was inferred.
        log_evidence: An estimate of log p(x) for each datapoint (N,).
        num_samples: Importance samples a datapoint for the bound at q*.
        num_particles: Draws of z a datapoint for each ELBO.
        tolerance: Of `optimum`: nats that a window of steps must gain to be called progress.
        max_steps: Of `optimum`.

    Raises:
        ValueError: A number out of range, or estimates that are not one a datapoint.

    Reference:
        Inference Suboptimality in Variational Autoencoders (Cremer et al., 2018), arXiv:1801.03558
    """
    x = subject.x
    if log_evidence.shape != (len(x),):
        raise ValueError(f"log_evidence must have shape ({len(x)},), one a datapoint, got {tuple(log_evidence.shape)}")
    model, family = subject.model, subject.family
    starts = (subject.init, subject.params) if subject.refines else (subject.init,)
    best = optimum(model, family, x, *starts, tolerance=tolerance, max_steps=max_steps)
    terms = precise_terms(model, family, x, *starts, best.params, num_particles=num_particles)
    # Of one λ if nothing refines, so that what is recovered is exactly nothing.
    init, refined, top = (terms[i].elbo() for i in (0, -2, -1))
    bound = iwae(model, family, x, best.params, num_samples)
    bounds = {"given": log_evidence.to(bound), f"IWAE-{num_samples} at q*": bound}
    name = max(bounds, key=lambda name: _mean(bounds[name]))
    parts = {
        "approximation": bounds[name] - top,
        "amortization": top - init,
        "recovered": refined - init,
        "remaining": top - refined,
        "inference": bounds[name] - refined,
    }
    findings = Findings(
        numbers={
            "gap": {part: estimate(value) for part, value in parts.items()},
            "log_evidence": estimate(bounds[name]),
            "log_evidence_from": name,
            "elbo_optimum": estimate(top),
            "num_steps": {"mean": best.num_steps.double().mean().item(), "max": int(best.num_steps.max())},
            "converged": best.converged.double().mean().item(),
            "tolerance": tolerance,
        },
        values={
            **{f"gap_{part}": value for part, value in parts.items()},
            "elbo_optimum": top,
            "log_evidence": bounds[name],
        },
    )
    findings.warnings += _warnings(findings.numbers, len(x), max_steps)
    return findings


def _mean(values: Tensor) -> float:
    """The mean; of what is not finite, less than any other."""
    mean = values.double().mean().item()
    return mean if math.isfinite(mean) else -math.inf


def _warnings(numbers: Mapping[str, Any], num_data: int, max_steps: int) -> list[str]:
    found = []
    if numbers["converged"] < 1:
        late = round((1 - numbers["converged"]) * num_data)
        found.append(
            f"q* of {late} of {num_data} datapoints still gained after {max_steps} steps, so their amortization gap is "
            "an underestimate; raise max_steps"
        )
    gap = numbers["gap"]["approximation"]
    if gap["mean"] < -2 * gap["se"]:
        found.append(
            f"the approximation gap is negative, {gap['mean']:.2f} ± {gap['se']:.2f} nats: the estimate of log p(x) is "
            "too low; take more samples"
        )
    return found


def gap_bars(gaps_by_split: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Approximation, remaining and recovered gap side by side, with standard errors, for each split.

    Args:
        gaps_by_split: `numbers["gap"]` of `gaps` by name of the split, or of the scheme.
    """
    names = list(gaps_by_split)
    figure = Figure(figsize=(min(8.0, 1.3 * len(names) + 3.0), 3.8), layout="constrained")
    axes = figure.subplots()
    labels = {
        "approximation": "approximation: log p(x) − L[q*]",
        "remaining": "remaining: L[q*] − L[λ_K]",
        "recovered": "recovered: L[λ_K] − L[λ₀]",
    }
    for shift, (part, label) in zip((-0.27, 0.0, 0.27), labels.items(), strict=True):
        means = [gaps_by_split[name][part]["mean"] for name in names]
        errors = [gaps_by_split[name][part]["se"] for name in names]
        places = [i + shift for i in range(len(names))]
        bars = axes.bar(places, means, 0.25, yerr=errors, capsize=2, label=label, alpha=0.85)
        axes.bar_label(bars, [f"{mean:.2f}" for mean in means], fontsize=7, padding=1)
    axes.set_xticks(range(len(names)), names, rotation=20 if max(map(len, names)) > 10 else 0)
    axes.set(ylabel="gap (nats a datapoint)", title="Where the ELBO falls short of log p(x)")
    axes.margins(y=0.12)
    axes.axhline(0, color="black", linewidth=0.6)
    figure.legend(loc="outside lower center", fontsize=8, ncols=3 if len(names) > 2 else 1, frameon=False)
    return figure

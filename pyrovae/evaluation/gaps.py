"""Where the ELBO falls short of the evidence: the best q of each datapoint, and the inference gap in parts."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ..inference import optimum
from .bounds import bounds
from .measurement import Measurement
from .subject import Subject

_PARTS = {
    "approximation": "approximation: log p(x) − L[q*]",
    "remaining": "remaining: L[q*] − L[λ_K]",
    "recovered": "recovered: L[λ_K] − L[λ₀]",
}
UNEVEN = 8  # times the typical bar, from where the largest would flatten the others on a linear axis


def gaps(
    subject: Subject, *, num_samples: int = 1000, num_particles: int = 100, tolerance: float = 0.02,
    max_steps: int = 5000,
) -> Measurement:  # fmt: skip
    r"""`bounds`, and the inference gap taken apart, per datapoint, in nats.

    .. math:: \log p(x) - L[q_{\lambda_K}] = \underbrace{\log p(x) - L[q^*]}_\text{approximation} +
        \underbrace{L[q^*] - L[q_{\lambda_K}]}_\text{remaining}, \qquad
        \underbrace{L[q^*] - L[q_{\lambda_0}]}_\text{amortization} = \text{recovered} + \text{remaining}

    with q* the best member of the family for each datapoint (`optimum`), and recovered :math:`= L[q_{\lambda_K}] -
    L[q_{\lambda_0}]` what refinement gains. For log p(x) stands a bound, so the approximation gap, and the whole, are
    underestimates; of a family without a density, which has no such bound, the other parts alone are known. Weights
    that datapoints share, a flow's say, are held still: what they lack is in the approximation gap.

    Args:
        subject: What was inferred.
        num_samples, num_particles: As in `bounds`.
        tolerance, max_steps: Of `optimum`: nats that a window of steps must gain to be called progress, and steps.

    Reference:
        Inference Suboptimality in Variational Autoencoders (Cremer et al., 2018), arXiv:1801.03558
    """
    starts = (subject.init, subject.params) if subject.refines else (subject.init,)
    best = optimum(subject.model, subject.family, subject.x, *starts, tolerance=tolerance, max_steps=max_steps)
    found = bounds(subject, best.params, num_samples=num_samples, num_particles=num_particles)
    converged, num = best.converged.double().mean().item(), len(subject.x)
    found.numbers |= {
        "num_steps": {"mean": best.num_steps.double().mean().item(), "max": int(best.num_steps.max())},
        "converged": converged,
        "tolerance": tolerance,
    }
    if converged < 1:
        found.warnings.append(
            f"q* of {round((1 - converged) * num)} of {num} datapoints still gained after {max_steps} steps, so their "
            "amortization gap is an underestimate; raise max_steps"
        )
    gap = found.numbers["gap"].get("approximation")
    if gap and gap["mean"] < -2 * gap["se"]:
        found.warnings.append(
            f"the approximation gap is negative, {gap['mean']:.2f} ± {gap['se']:.2f} nats: the estimate of log p(x) is "
            "too low; take more samples"
        )
    return found


def gap_bars(gaps_by_split: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Figure:
    """Approximation, remaining and recovered gap side by side, with standard errors, for each split.

    `gaps_by_split` has `numbers["gap"]` of `gaps` by name of the split, or of the scheme. Where some bars are many
    times the others, the axis is linear up to 1 nat and logarithmic above.
    """
    names = list(gaps_by_split)
    figure = Figure(figsize=(8, 1.5 + 0.55 * len(names)), layout="constrained")
    axes = figure.subplots()
    sizes = []
    for shift, (part, label) in zip((-0.27, 0.0, 0.27), _PARTS.items(), strict=True):
        found = [gaps_by_split[name].get(part) or {} for name in names]
        means, errors = (np.array([one.get(key) for one in found], dtype=float) for key in ("mean", "se"))
        style = {"xerr": np.nan_to_num(errors), "error_kw": {"elinewidth": 1, "ecolor": "0.2"}, "alpha": 0.85}
        bars = axes.barh(np.arange(len(names)) + shift, means, 0.25, label=label, **style)
        texts = ["" if np.isnan(mean) else f"{mean:.2f}".replace("-", "−") for mean in means]
        axes.bar_label(bars, texts, fontsize=7, padding=3)
        sizes += [abs(mean) for mean in means if abs(mean) > 0.05]
    if sizes and max(sizes) > UNEVEN * np.median(sizes):
        axes.set_xscale("symlog", linthresh=1, linscale=0.6)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()  # the first is on top
    axes.set(xlabel="gap (nats a datapoint)", title="Where the ELBO falls short of log p(x)")
    axes.margins(x=0.12)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", fontsize=8, ncols=3, frameon=False)
    return figure

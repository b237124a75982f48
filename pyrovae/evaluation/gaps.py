"""Bounds on log p(x), all from one set of draws, the gaps between them, and annealing to check them by."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from ..inference import (
    ais,
    bidirectional,
    effective_sample_size,
    iwae,
    iwae_bounds,
    log_weights,
    optimum,
    pareto_k,
    precise_terms,
)  # fmt: skip
from ..inference.importance import MIN_DRAWS_FOR_TAIL
from ..validation import NonNegativeInt, validated
from .subject import Measurement, Subject, estimate, panels
from .table import GAPS, number

HIGH_PARETO_K = 0.7
SHARE_TO_WARN = 0.03  # of datapoints whose Pareto k̂ is high
FEW_GROUPS = 30
LARGE_GAP = 1.0  # nats between both sides of annealing
LOW_ACCEPTANCE = 0.4
UNEVEN = 8  # times the typical bar, from where the largest would flatten the others on a linear axis


def bounds(
    subject: Subject, best: Tensor | None = None, *, num_samples: int = 1000, num_particles: int = 100
) -> Measurement:
    r"""The ELBO at λ₀ and λ_K, the importance-weighted bound at λ_K, and how far to trust it; in nats.

    .. math:: L(\lambda_0), \; L(\lambda_K) \le L_{10} \le \ldots \le L_K \le \log p(x)

    With `best`, λ* (N, P) of `optimum`, also the ELBO there and the gaps of `gaps`. All ELBOs share their noise,
    `num_particles` draws of z a datapoint, and KL is in closed form where torch knows one. For log p(x) stands an
    importance-weighted bound of K = `num_samples` draws, at λ_K or at λ*: the higher in the mean.

    A datapoint with a number that is not finite is left out of every mean, so that means add up as datapoints do:
    `elbo_init` + `gap_amortization` + `gap_approximation` = `log_evidence`.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), arXiv:1507.02646
    """
    model, family, x = subject.model, subject.family, subject.x
    states = [subject.init, *([subject.params] if subject.refines else []), *([] if best is None else [best])]
    scored = precise_terms(model, family, x, *states, num_particles=num_particles)
    at_k = scored[int(subject.refines)]
    # In double precision, in which sums and differences are exact to far more than any digit shown.
    values = {"elbo_init": scored[0].elbo().double(), "elbo": at_k.elbo().double(), "recon": at_k.recon, "kl": at_k.kl}
    if best is not None:
        values["elbo_optimum"] = scored[-1].elbo().double()
    curve, trust = {}, {}
    if weighed := family.density != "none":
        weights = log_weights(model, family, x, subject.params, num_samples)  # (K, N)
        ks = [10**power for power in range(len(str(num_samples))) if 10**power < num_samples] + [num_samples]
        curve = dict(zip(map(str, ks), iwae_bounds(weights, ks).double(), strict=True))  # (N,) each
        values["iwae"] = curve[str(num_samples)]
        trust["effective_sample_size"] = effective_sample_size(weights)
        if num_samples >= MIN_DRAWS_FOR_TAIL:
            trust["pareto_k"] = pareto_k(weights)
        if best is not None:
            values["iwae_optimum"] = iwae(model, family, x, best, num_samples).double()
    good = torch.stack(list(values.values())).isfinite().all(0)  # one mask, so that means add up
    numbers: dict[str, Any] = {"num_data": len(x), "num_left_out": int((~good).sum())}
    if weighed:
        places = {"iwae": "λ_K", "iwae_optimum": "λ*"}
        name = max(filter(values.__contains__, places), key=lambda name: values[name][good].sum().item())
        numbers["log_evidence_from"] = f"IWAE-{num_samples} at {places[name]}"
        values["log_evidence"] = values[name]
    known = {part: ends for part, ends in GAPS.items() if best is not None and values.keys() >= {*ends}}
    parts = {part: values[high] - values[low] for part, (high, low) in known.items()}
    values["refinement_gain"] = values["elbo"] - values["elbo_init"]

    def means(of: Mapping[str, Tensor]) -> dict[str, Any]:
        return {name: subject.estimate(value[good], good.cpu()) for name, value in of.items()}

    numbers |= means(values) | ({"gap": means(parts)} if parts else {})
    found = Measurement(numbers, values | {f"gap_{part}": value for part, value in parts.items()} | trust)
    text = "datapoints have bounds that are not finite; means leave them out"
    found.warn_of(~good, f"{text}; look at their data and λ for values out of range")
    if weighed:
        numbers["iwae_k"] = means(curve)
        numbers |= {name: _spread(name, value[good]) for name, value in trust.items() if good.any()}
        found.warnings += _distrust(trust.get("pareto_k"), num_samples)
        found.draw("bounds", bounds_figure, numbers)
    else:
        found.warnings.append(f"iwae: left out, for {type(family).__name__} has no density to weigh draws by")
    if subject.groups is not None:
        numbers["num_groups"] = num = len(subject.groups.unique())
        if num < FEW_GROUPS:
            what = "photographs" if x.dim() == 4 else "groups of datapoints"
            found.warnings.append(f"standard errors are over {num} {what}, too few to trust them; use more")
    return found


def _spread(name: str, values: Tensor) -> dict[str, float]:
    values = values.double()
    mean = values[values.isfinite()].mean()
    found = {"min": values.min(), "median": values.median(), "max": values.max(), "mean": mean}
    if name == "pareto_k":
        found["share_above_0.7"] = (values > HIGH_PARETO_K).double().mean()
    return {key: value.item() for key, value in found.items()}


def _distrust(tails: Tensor | None, num_samples: int) -> list[str]:
    """What of importance weights with these Pareto k̂ is not to be trusted."""
    if tails is None:
        return [f"{num_samples} draws are too few to tell how far to trust the importance-weighted bound; use 1,000"]
    high, num = int((tails > HIGH_PARETO_K).sum()), len(tails)
    text = f"Pareto k̂ is above {HIGH_PARETO_K} for {high} of {num} datapoints, so their IWAE bounds are likely too low"
    remedy = "take more draws, refine further, or compare with annealed importance sampling"
    return [f"{text}; {remedy}"] if high > SHARE_TO_WARN * num else []


def gaps(
    subject: Subject, *, num_samples: int = 1000, num_particles: int = 100, tolerance: float = 0.02,
    max_steps: int = 5000,
) -> Measurement:  # fmt: skip
    r"""`bounds`, and the inference gap taken apart, per datapoint, in nats.

    .. math:: \log p(x) - L[q_{\lambda_K}] = \underbrace{\log p(x) - L[q^*]}_\text{approximation} +
        \underbrace{L[q^*] - L[q_{\lambda_K}]}_\text{remaining}, \qquad
        \underbrace{L[q^*] - L[q_{\lambda_0}]}_\text{amortization} = \text{recovered} + \text{remaining}

    with q* the best member of the family for each datapoint (`optimum`, which `tolerance`, in nats, and `max_steps` are
    for). For log p(x) stands a bound, so the approximation gap, and the whole, are underestimates; of a family without
    a density, which has no such bound, the other parts alone are known. Weights that datapoints share, a flow's say,
    are held still: what they lack is in the approximation gap.

    Reference:
        Inference Suboptimality in Variational Autoencoders (Cremer et al., 2018), arXiv:1801.03558
    """
    starts = (subject.init, subject.params) if subject.refines else (subject.init,)
    best = optimum(subject.model, subject.family, subject.x, *starts, tolerance=tolerance, max_steps=max_steps)
    found = bounds(subject, best.params, num_samples=num_samples, num_particles=num_particles)
    found.numbers |= {
        "num_steps": {"mean": best.num_steps.double().mean().item(), "max": int(best.num_steps.max())},
        "converged": best.converged.double().mean().item(),
        "tolerance": tolerance,
    }
    text = f"datapoints still gained after {max_steps} steps towards q*"
    found.warn_of(~best.converged, f"{text}, so their amortization gap is an underestimate; raise max_steps")
    gap = found.numbers["gap"].get("approximation")
    if gap and gap["mean"] < -2 * gap["se"]:
        text = f"the approximation gap is negative, {number(gap)} nats: the estimate of log p(x) is too low"
        found.warnings.append(f"{text}; take more samples")
    return found


@validated
def annealed(
    subject: Subject, *, num_data: NonNegativeInt = 100, num_simulated: NonNegativeInt = 100,
    log_evidence: Tensor | None = None, **options: Any,
) -> Measurement:  # fmt: skip
    r"""log p(x) by annealed importance sampling, and its error on data drawn from the model; in nats.

    On the first `num_data` datapoints, `ais`: a lower bound on average, tighter than the importance-weighted one where
    q is far from the posterior. On simulated data, `bdmc`: bounds from both sides,

    .. math:: E \, \hat L_{forward} \le \log p(x) \le E \, \hat L_{reverse}

    whose gap is what `ais` may be off by, as far as the data resemble what the model makes. With another estimate,
    `log_evidence` (N,), also the difference from it, datapoint by datapoint. `options` are those of `ais`, and its
    errors; chains start from q at λ_K where it scores any draw.

    References:
        On the quantitative analysis of decoder-based generative models (Wu et al., 2017), arXiv:1611.04273
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse et al., 2015), arXiv:1511.02543
    """
    start = "q" if subject.family.density == "any" else "prior"
    path: dict[str, Any] = {"num_chains": 8, "num_steps": 500, "num_leapfrog": 5, "start": start, **options}
    found, rows = Measurement(), slice(num_data)
    if num_data > 0:
        result = ais(subject.model, subject.family, subject.x[rows], subject.params[rows], **path)
        found.values["ais"] = result.bound
        text = "annealed bounds are not finite; means leave them out"
        found.warn_of(~result.bound.isfinite(), f"{text}; look at their data and λ for values out of range")
        told = {"num_data": len(result.bound), "acceptance": result.acceptance.mean().item(), **path}
        found.numbers["ais"] = subject.estimate(result.bound, rows) | told
        if log_evidence is not None:
            above = result.bound - log_evidence[rows].to(result.bound)
            found.numbers["ais"]["minus_log_evidence"] = subject.estimate(above, rows)
    if num_simulated > 0:
        like = subject.x[:1].expand(num_simulated, *subject.x.shape[1:])
        infer = torch.no_grad()(lambda x: subject.guide.infer(x).params)
        pairs = bidirectional(subject.model, subject.family, infer, like, **path)
        sides = {"lower": pairs.lower, "upper": pairs.upper, "gap": pairs.upper - pairs.lower}
        found.values |= {"bdmc_lower": pairs.lower, "bdmc_upper": pairs.upper}
        good, remedy = sides["gap"].isfinite(), "take more steps"
        remedy += "; if q is far from the posteriors of simulated data, start='prior'" if path["start"] == "q" else ""
        found.warn_of(~good, f"bounds of simulated data are not finite; means leave them out; {remedy}")
        means: dict[str, Any] = {name: estimate(side[good]) for name, side in sides.items()}
        told = {"num_data": num_simulated, "acceptance": pairs.acceptance.mean().item(), **path}
        found.numbers["bdmc"] = means | told
        if (apart := means["gap"]["mean"]) > LARGE_GAP:
            text = f"annealing is not yet a measure of log p(x): on simulated data its sides are {apart:.1f} nats apart"
            found.warnings.append(f"{text}; use more chains, or {remedy}")
    if low := {name: part["acceptance"] for name, part in found.numbers.items() if part["acceptance"] < LOW_ACCEPTANCE}:
        text = f"annealing accepts few moves ({', '.join(low)}: {min(low.values()):.2f}), so its bounds are loose"
        found.warnings.append(f"{text}; take more steps")
    return found


def bounds_figure(numbers: Mapping[str, Any]) -> Figure:
    """The importance-weighted bound against k, the ELBOs and, if there is one, the annealed estimate `ais`."""
    figure, (axes,) = panels(7, 4.2)
    ks = np.array([int(k) for k in numbers["iwae_k"]])
    mean, error = (np.array([bound[key] for bound in numbers["iwae_k"].values()]) for key in ("mean", "se"))
    axes.fill_between(ks, mean - error, mean + error, color="C0", alpha=0.2, linewidth=0)
    axes.plot(ks, mean, "o-", color="C0", markersize=4, label=f"IWAE at λ_K, {mean[-1]:.2f} at k = {ks[-1]:,}")
    levels = {"elbo_init": ("ELBO at λ₀", ":"), "elbo": ("ELBO at λ_K", "--"), "elbo_optimum": ("ELBO at λ*", "-.")}
    for name, (label, style) in levels.items():
        if name in numbers and (name != "elbo_init" or numbers[name] != numbers["elbo"]):
            value = numbers[name]["mean"]
            axes.axhline(value, color="0.3", linestyle=style, label=f"{label}, {value:.2f}")
    difference = numbers.get("ais", {}).get("minus_log_evidence")
    if difference is not None:  # of the same datapoints, which may be fewer than the bounds'
        value, se = numbers["log_evidence"]["mean"] + difference["mean"], difference["se"]
        axes.axhspan(value - se, value + se, color="C1", alpha=0.2, linewidth=0)
        text = f"log p̂ + paired AIS difference {difference['mean']:+.2f} ± {se:.2f} (n = {numbers['ais']['num_data']})"
        axes.axhline(value, color="C1", label=f"{text}, {value:.2f}")
    axes.set(xscale="log", xlabel="draws k of a datapoint", ylabel="bound on log p(x) (nats a datapoint)")
    axes.set_title("How much is left above the ELBO? Bands: one standard error", fontsize="medium")
    figure.legend(fontsize="small", loc="outside lower center", ncols=2)
    return figure


def gap_bars(gaps_by_split: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Figure:
    """Approximation, remaining and recovered gap side by side, with standard errors, for each split.

    `gaps_by_split` has `numbers["gap"]` of `gaps` by name of the split, or of the scheme. Where some bars are many
    times the others, the axis is linear up to 1 nat and logarithmic above.
    """
    names, sizes = list(gaps_by_split), list[float]()
    labels = ["approximation: log p(x) − L[q*]", "remaining: L[q*] − L[λ_K]", "recovered: L[λ_K] − L[λ₀]"]
    figure, (axes,) = panels(8, 1.5 + 0.55 * len(names))
    for shift, label in zip((-0.27, 0.0, 0.27), labels, strict=True):
        found = [gaps_by_split[name].get(label.partition(":")[0]) or {} for name in names]
        means, errors = (np.array([one.get(key) for one in found], dtype=float) for key in ("mean", "se"))
        style = {"xerr": np.nan_to_num(errors), "error_kw": {"elinewidth": 1, "ecolor": "0.2"}, "alpha": 0.85}
        bars = axes.barh(np.arange(len(names)) + shift, means, 0.25, label=label, **style)
        axes.bar_label(bars, ["" if np.isnan(mean) else number(mean) for mean in means], fontsize=7, padding=3)
        sizes += [abs(mean) for mean in means if abs(mean) > 0.05]
    if sizes and max(sizes) > UNEVEN * np.median(sizes):
        axes.set_xscale("symlog", linthresh=1, linscale=0.6)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()  # the first is on top
    axes.set(xlabel="gap (nats a datapoint)", title="Where the ELBO falls short of log p(x)")
    axes.margins(x=0.12)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", fontsize=8, ncols=3, frameon=False)
    return figure

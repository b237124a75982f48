"""Bounds on log p(x) at λ₀, λ_K and λ*, all from one set of draws, and the gaps between them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..inference import effective_sample_size, iwae, iwae_bounds, log_weights, pareto_k, precise_terms
from ..inference.importance import MIN_DRAWS_FOR_TAIL
from .measurement import Measurement
from .subject import Subject

HIGH_PARETO_K = 0.7
SHARE_TO_WARN = 0.03
FEW_GROUPS = 30


def bounds(
    subject: Subject, best: Tensor | None = None, *, num_samples: int = 1000, num_particles: int = 100
) -> Measurement:
    r"""The ELBO at λ₀ and λ_K, the importance-weighted bound at λ_K, and how far to trust it; in nats.

    .. math:: L(\lambda_0), \; L(\lambda_K) \le L_{10} \le \ldots \le L_K \le \log p(x)

    With `best`, also the ELBO at λ* and the gaps of `gaps`. All ELBOs share their noise, and KL is in closed form where
    torch knows one. For log p(x) stands an importance-weighted bound, at λ_K or at λ*: the higher in the mean.

    A datapoint with a number that is not finite is left out of every mean, so that means add up as datapoints do:
    `elbo_init` + `gap_amortization` + `gap_approximation` = `log_evidence`.

    Args:
        subject: What is measured.
        best: λ* (N, P), of `optimum`: chosen by other draws than score it here.
        num_samples: K, draws of z a datapoint for the importance-weighted bounds.
        num_particles: Draws of z a datapoint for the ELBOs.

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
    curve, trust, warnings = x.new_empty(0), {}, []
    if family.density == "none":
        warnings.append(f"iwae: left out, for {type(family).__name__} has no density to weigh draws by")
    else:
        weights = log_weights(model, family, x, subject.params, num_samples)  # (K, N)
        ks = [10**power for power in range(len(str(num_samples))) if 10**power < num_samples] + [num_samples]
        curve = iwae_bounds(weights, ks).double()  # (len(ks), N)
        values["iwae"] = curve[-1]
        trust["effective_sample_size"] = effective_sample_size(weights)
        if num_samples >= MIN_DRAWS_FOR_TAIL:
            trust["pareto_k"] = pareto_k(weights)
        warnings += _trust_warnings(trust, num_samples)
        if best is not None:
            values["iwae_optimum"] = iwae(model, family, x, best, num_samples).double()
    good = torch.stack(list(values.values())).isfinite().all(0)  # one mask, so that means add up
    rows = good.cpu()
    numbers: dict[str, Any] = {"num_data": len(x), "num_left_out": int((~good).sum())}
    if "iwae" in values:
        name = max(
            [key for key in ("iwae", "iwae_optimum") if key in values], key=lambda name: values[name][good].sum().item()
        )
        numbers["log_evidence_from"] = f"IWAE-{num_samples} at {'λ_K' if name == 'iwae' else 'λ*'}"
        values["log_evidence"] = values[name]
    levels: Any = (values.get(key) for key in ("elbo_init", "elbo", "elbo_optimum", "log_evidence"))
    (init, refined, top, evidence), parts = levels, {}
    if top is not None:
        parts = {"amortization": top - init, "recovered": refined - init, "remaining": top - refined}
        parts |= {} if evidence is None else {"approximation": evidence - top, "inference": evidence - refined}
    values |= {"refinement_gain": refined - init} | {f"gap_{k}": v for k, v in parts.items()}
    numbers |= {k: subject.estimate(v[good], rows) for k, v in values.items() if not k.startswith("gap_")}
    numbers |= {"gap": {k: subject.estimate(v[good], rows) for k, v in parts.items()}} if parts else {}
    found = Measurement(numbers, values | trust, warnings=warnings)
    if len(curve):
        numbers["iwae_k"] = {str(k): subject.estimate(bound[good], rows) for k, bound in zip(ks, curve, strict=True)}
        numbers |= {name: _spread(name, value[good]) for name, value in trust.items() if good.any()}
        found.draw("bounds", bounds_figure, numbers)
    if not good.all():
        text = f"{numbers['num_left_out']} of {len(x)} datapoints have bounds that are not finite; means leave them out"
        found.warnings.insert(0, f"{text}; look at their data and λ for values out of range")
    if subject.groups is not None:
        numbers["num_groups"] = len(subject.groups.unique())
        found.warnings += filter(None, [few_groups(subject)])
    return found


def few_groups(subject: Subject) -> str:
    """A warning where datapoints are of few groups, else nothing."""
    num = FEW_GROUPS if subject.groups is None else len(subject.groups.unique())
    what = "photographs" if subject.x.dim() == 4 else "groups of datapoints"
    return "" if num >= FEW_GROUPS else f"standard errors are over {num} {what}, too few to trust them; use more"


def _spread(name: str, values: Tensor) -> dict[str, float]:
    values = values.double()
    found = {kind: getattr(values, kind)() for kind in ("min", "median", "max")}
    found["mean"] = values[values.isfinite()].mean()
    if name == "pareto_k":
        found["share_above_0.7"] = (values > HIGH_PARETO_K).double().mean()
    return {key: value.item() for key, value in found.items()}


def _trust_warnings(trust: Mapping[str, Tensor], num_samples: int) -> list[str]:
    """What of the importance weights is not to be trusted."""
    if "pareto_k" not in trust:
        return [f"{num_samples} draws are too few to tell how far to trust the importance-weighted bound; use 1,000"]
    high, num = int((trust["pareto_k"] > HIGH_PARETO_K).sum()), len(trust["pareto_k"])
    if high <= SHARE_TO_WARN * num:
        return []
    return [
        f"Pareto k̂ is above {HIGH_PARETO_K} for {high} of {num} datapoints, so their importance-weighted bounds at "
        f"{num_samples} draws are likely too low; take more draws, refine further, or compare with annealed importance "
        "sampling"
    ]


def bounds_figure(numbers: Mapping[str, Any]) -> Figure:
    """The importance-weighted bound against k between the ELBOs and, if there is one, the annealed estimate `ais`."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
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
    axes.grid(alpha=0.3)
    figure.legend(fontsize="small", loc="outside lower center", ncols=2)
    return figure

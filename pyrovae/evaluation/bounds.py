"""Bounds on log p(x) at λ₀ and λ_K."""

from typing import Any

import torch
from torch import Tensor

from ..inference import effective_sample_size, iwae_bounds, log_weights, pareto_k, precise_terms
from ..inference.importance import MIN_DRAWS_FOR_TAIL
from .bounds_figure import bounds_figure
from .findings import Findings, estimate
from .subject import Subject

HIGH_PARETO_K = 0.7
SHARE_TO_WARN = 0.03


def bounds(subject: Subject, *, num_samples: int = 1000, num_particles: int = 100) -> Findings:
    r"""The ELBO at λ₀ and λ_K, the importance-weighted bound at λ_K, and how far to trust it; in nats.

    .. math:: L(\lambda_0), \; L(\lambda_K) \le L_{10} \le \ldots \le L_K \le \log p(x)

    The two ELBOs share their noise, and KL is in closed form where torch knows one. Numbers: `elbo_init`, `elbo`,
    `recon`, `kl`, `refinement_gain`, `iwae`, `iwae_k` by k, `effective_sample_size`, `pareto_k`. Values: all these per
    datapoint but `iwae_k`.

    Args:
        subject: What is measured.
        num_samples: K, draws of z a datapoint for the importance-weighted bound.
        num_particles: Draws of z a datapoint for the ELBOs.

    Raises:
        ValueError: A number below 1.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), arXiv:1509.00519
        Pareto Smoothed Importance Sampling (Vehtari et al., 2024), arXiv:1507.02646
    """
    for name, value in (("num_samples", num_samples), ("num_particles", num_particles)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    both = (subject.init, subject.params) if subject.refines else (subject.params,)
    scored = precise_terms(subject.model, subject.family, subject.x, *both, num_particles=num_particles)
    init, terms = scored[0], scored[-1]
    values = {
        "elbo_init": init.elbo(),
        "elbo": terms.elbo(),
        "recon": terms.recon,
        "kl": terms.kl,
        "refinement_gain": terms.elbo() - init.elbo(),
    }
    if subject.family.density == "none":
        name = type(subject.family).__name__
        numbers = {key: estimate(value[value.isfinite()]) for key, value in values.items()}
        return Findings(numbers, values, warnings=[f"iwae: left out, for {name} has no density to weigh draws by"])
    weights = log_weights(subject.model, subject.family, subject.x, subject.params, num_samples)  # (K, N)
    ks = [10**power for power in range(len(str(num_samples))) if 10**power < num_samples] + [num_samples]
    curve = iwae_bounds(weights, ks)  # (len(ks), N)
    values |= {"iwae": curve[-1], "effective_sample_size": effective_sample_size(weights)}
    if num_samples >= MIN_DRAWS_FOR_TAIL:
        values["pareto_k"] = pareto_k(weights)
    good = torch.stack(list(values.values())).isfinite().all(0)
    numbers = _numbers({name: value[good] for name, value in values.items()}, ks, curve[:, good])
    found = Findings(numbers, values, {"bounds": bounds_figure(numbers)})
    if not good.all():
        text = f"{int((~good).sum())} of {len(good)} datapoints have bounds that are not finite; means leave them out"
        found.warnings.append(f"{text}; look at their data and λ for values out of range")
    found.warnings += _warnings(values, num_samples)
    return found


def _numbers(values: dict[str, Tensor], ks: list[int], curve: Tensor) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        name: estimate(value) for name, value in values.items() if name not in ("effective_sample_size", "pareto_k")
    }
    numbers["iwae_k"] = {str(k): estimate(bound) for k, bound in zip(ks, curve, strict=True)}
    for name in ("effective_sample_size", "pareto_k"):
        if name in values and len(values[name]) > 0:
            value = values[name].double()
            numbers[name] = {
                "mean": value.mean().item(),
                "min": value.min().item(),
                "median": value.median().item(),
                "max": value.max().item(),
            }
            if name == "pareto_k":
                numbers[name]["share_above_0.7"] = (value > HIGH_PARETO_K).double().mean().item()
    return numbers


def _warnings(values: dict[str, Tensor], num_samples: int) -> list[str]:
    """What of the importance weights is not to be trusted."""
    if "pareto_k" not in values:
        return [f"{num_samples} draws are too few to tell how far to trust the importance-weighted bound; use 1,000"]
    high, num = int((values["pareto_k"] > HIGH_PARETO_K).sum()), len(values["pareto_k"])
    if high <= SHARE_TO_WARN * num:
        return []
    return [
        f"Pareto k̂ is above {HIGH_PARETO_K} for {high} of {num} datapoints, so their importance-weighted bounds at "
        f"{num_samples} draws are likely too low; take more draws, refine further, or compare with annealed importance "
        "sampling"
    ]

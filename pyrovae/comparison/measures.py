"""What is read off `evaluation.json`, by name."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple


class Estimate(NamedTuple):
    """A mean and its standard error; NaN where there is none."""

    mean: float
    se: float = math.nan


_PATHS: dict[str, tuple[str, ...]] = {  # of what stands under splits.test
    "elbo_init": ("elbo_init",),
    "elbo": ("elbo",),
    "iwae": ("iwae",),
    "log_evidence": ("log_evidence",),
    "elbo_optimum": ("elbo_optimum",),
    "approximation": ("gap", "approximation"),
    "amortization": ("gap", "amortization"),
    "recovered": ("gap", "recovered"),
    "remaining": ("gap", "remaining"),
    "inference": ("gap", "inference"),
    "active_units": ("active_units",),
    "knn": ("probe", "knn"),
    "linear": ("probe", "linear"),
    "mse": ("reconstruction", "mse"),
}
PUBLISHABLE = ["nll", *_PATHS]  # nll is minus iwae


def measure(evaluation: Mapping[str, Any], name: str, split: str = "test") -> Estimate | None:
    """A measure by name, in nats a datapoint if it is a bound or a gap; None where it was not taken."""
    if name == "nll":
        iwae = measure(evaluation, "iwae", split)
        return None if iwae is None else Estimate(-iwae.mean, iwae.se)
    value = (evaluation.get("splits") or {}).get(split)
    for key in _PATHS[name]:
        value = value.get(key) if isinstance(value, Mapping) else None
    return as_estimate(value)


def as_estimate(value: Any) -> Estimate | None:
    """From a number, or from a mapping with `mean` and `se`."""
    if not isinstance(value, Mapping):
        return None if value is None else Estimate(float(value))
    if value.get("mean") is None:
        return None
    return Estimate(float(value["mean"]), math.nan if value.get("se") is None else float(value["se"]))


def over_seeds(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """The mean; its standard error is over seeds, of one seed that over datapoints."""
    known = [estimate for estimate in estimates if estimate is not None]
    if len(known) < 2:
        return known[0] if known else None
    means = [estimate.mean for estimate in known]
    return Estimate(mean(means), stdev(means) / math.sqrt(len(means)))


def ms_per_image(evaluation: Mapping[str, Any]) -> Estimate | None:
    """Milliseconds of inference an image, with the inner steps of training."""
    trajectory = evaluation.get("trajectory") or {}
    seconds, steps = trajectory.get("seconds_per_image"), trajectory.get("step")
    num_steps = trained_num_steps(evaluation)
    if not seconds or not steps or num_steps not in steps or seconds[steps.index(num_steps)] is None:
        return None
    return Estimate(1e3 * seconds[steps.index(num_steps)])


def trained_num_steps(evaluation: Mapping[str, Any]) -> int:
    """K; 0 for a guide that does not refine."""
    return (evaluation.get("scheme") or {}).get("num_steps") or 0

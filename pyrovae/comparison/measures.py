"""What is read off `evaluation.json`, by name, and errors of means."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean and its standard error; NaN where there is none."""

    mean: float
    se: float = math.nan


MEASURES: dict[str, tuple[str, ...]] = {  # where it stands under splits.<split>
    **{name: (name,) for name in ("elbo_init", "elbo", "elbo_optimum", "log_evidence", "iwae")},
    **{name: ("gap", name) for name in ("approximation", "amortization", "recovered", "remaining", "inference")},
    **{name: (name,) for name in ("dims_in_use", "dims_in_use_init")},
    **{"knn": ("probe", "knn"), "linear": ("probe", "linear"), "mse": ("reconstruction", "mse")},
}
PUBLISHABLE = ["nll", *MEASURES]  # nll is minus iwae


def measure(evaluation: Mapping[str, Any], name: str, split: str = "test") -> Estimate | None:
    """A measure by name, in nats a datapoint if it is a bound or a gap; None where it was not taken."""
    if name == "nll":
        iwae = measure(evaluation, "iwae", split)
        return None if iwae is None else Estimate(-iwae.mean, iwae.se)
    return as_estimate(nested(evaluation, "splits", split, *MEASURES[name]))


def nested(values: Any, *keys: str) -> Any:
    """What stands under keys in keys; None where there is nothing."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def as_estimate(value: Any) -> Estimate | None:
    """From a number, or from a mapping with `mean` and `se`; None from anything else."""
    mean, se = (value.get("mean"), value.get("se")) if isinstance(value, Mapping) else (value, None)
    if not isinstance(mean, int | float):
        return None
    return Estimate(float(mean), float(se) if isinstance(se, int | float) else math.nan)


def pooled(values: np.ndarray, groups: np.ndarray | None = None) -> Estimate:
    """The mean of values (S, N), of S seeds and N datapoints, and its standard error over both.

    se² = var(means over seeds) / N + var(means over datapoints) / S: other datapoints and other seeds might have been
    drawn. One seed gives no more than the first. Datapoints of one of `groups` (N,), the photograph that a patch is
    from, are not independent: the first is then over groups (Liang & Zeger 1986).

    >>> pooled(np.array([[1.0, 2, 3], [3.0, 4, 5]]))
    Estimate(mean=3.0, se=1.154...)
    """
    (num_seeds, num), by_seed, away = values.shape, values.mean(1), values.mean(0) - values.mean()
    if groups is not None:
        away = np.bincount(np.unique(groups, return_inverse=True)[1], away)
    n = len(away)
    parts = [n / (n - 1) * (away**2).sum() / num**2] if n > 1 else []
    parts += [by_seed.var(ddof=1) / num_seeds] if num_seeds > 1 else []
    return Estimate(float(values.mean()), math.sqrt(sum(parts)) if parts else math.nan)


def over_seeds(estimates: Sequence[Estimate | None]) -> Estimate | None:
    """As `pooled`, from each seed's mean and error: the part over datapoints is then at most too large."""
    known = [estimate for estimate in estimates if estimate is not None]
    if len(known) < 2:
        return known[0] if known else None
    means, errors = np.array(known).T
    over_data = np.nan_to_num(errors**2).mean()  # 0 of what has no error, seconds say
    return Estimate(float(means.mean()), math.sqrt(over_data + means.var(ddof=1) / len(means)))

"""Published numbers beside those obtained."""

import math
from collections.abc import Mapping, Sequence

from .measures import Estimate, measure, over_seeds
from .results import Result, by_scheme
from .table import estimate_text, number

HEADER = ["scheme", "measure", "published", "obtained", "obtained − published", "source"]
_NAMES = {
    "nll": "negative log-likelihood (−IWAE)",
    "elbo_init": "ELBO at λ₀",
    "elbo": "ELBO at λ_K",
    "iwae": "IWAE",
    "log_evidence": "log p(x)",
    "elbo_optimum": "ELBO at the best q of the family",
    "approximation": "approximation gap",
    "amortization": "amortization gap",
    "inference": "inference gap",
}


def published_lines(
    published: Mapping[str, Mapping[str, float | str]], results: Sequence[Result]
) -> list[tuple[str, str, str, str, str, str]]:
    """A line for each published number, in the order of `HEADER`; those not obtained yet have a dash."""
    groups = by_scheme(results)
    lines = []
    for scheme, numbers in published.items():
        for name, value in numbers.items():
            if name == "source":
                continue
            evaluations = [result.evaluation for result in groups.get(scheme, [])]
            obtained = over_seeds([measure(evaluation, name) for evaluation in evaluations])
            difference = Estimate(math.nan if obtained is None else obtained.mean - float(value))
            what, source = _NAMES.get(name, name), str(numbers.get("source", ""))
            lines.append(
                (scheme, what, number(float(value)), estimate_text(obtained), estimate_text(difference, "+"), source)
            )
    return lines

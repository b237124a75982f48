"""What an evaluation found, as text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_BOUNDS = {"ELBO at λ₀": "elbo_init", "ELBO at λ_K": "elbo", "ELBO at λ*": "elbo_optimum"}
_BOUNDS |= {"IWAE": "iwae", "log p̂": "log_evidence"}
GAPS = {  # each the difference of two levels
    "approximation": ("log_evidence", "elbo_optimum"),
    "amortization": ("elbo_optimum", "elbo_init"),
    "recovered": ("elbo", "elbo_init"),
    "remaining": ("elbo_optimum", "elbo"),
    "inference": ("log_evidence", "elbo"),
}
_REPRESENTATION = {"in use at λ₀": "dims_in_use_init", "in use at λ_K": "dims_in_use", "MSE": "reconstruction.mse"}
_REPRESENTATION |= {"R²": "reconstruction.r2", "k-NN": "probe.knn", "linear probe": "probe.linear"}


def number(value: Any, digits: int = 2) -> str:
    """A number, or an estimate with its standard error; a dash where there is none."""
    if isinstance(value, Mapping):
        error = "" if value.get("se") is None else f" ± {value['se']:.{digits}f}"
        return "–" if value.get("mean") is None else number(value["mean"], digits) + error
    if value is None:
        return "–"
    return f"{value:.{digits}f}".replace("-", "−") if isinstance(value, float) else str(value)


def lookup(numbers: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None if there is none."""
    value: Any = numbers
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def shown_gaps(numbers: Mapping[str, Any], digits: int = 2) -> dict[str, dict[str, float]]:
    """The gaps of a split as differences of its rounded levels, so that printed columns add up to the digit.

    `numbers` are those of a split; what is missing is left out.

    >>> levels = {"elbo": {"mean": -1.004}, "log_evidence": {"mean": -0.996}}
    >>> shown_gaps(levels | {"gap": {"inference": {"mean": 0.008, "se": 0.001}}})
    {'inference': {'mean': 0.0, 'se': 0.001}}
    """
    found = {}
    for part, ends in GAPS.items():
        high, low = (lookup(numbers, f"{end}.mean") for end in ends)
        if high is not None and low is not None:
            difference = round(round(high, digits) - round(low, digits), digits)
            found[part] = {"mean": difference + 0.0, "se": lookup(numbers, f"gap.{part}.se")}
    return found


def table(result: Mapping[str, Any]) -> str:
    """Tables of an evaluation's numbers, for a terminal."""
    scheme, splits, settings = result["scheme"], result["splits"], result["settings"]
    refiner = "" if scheme["num_steps"] is None else f", K = {scheme['num_steps']}"
    sizes = {split: numbers["num_data"] - numbers.get("num_left_out", 0) for split, numbers in splits.items()}
    each = ", ".join(f"{n} of {name}" for name, n in sizes.items())
    told = each if len(set(sizes.values())) > 1 else f"{max(sizes.values())} a split"
    grouped = any("num_groups" in numbers for numbers in splits.values())
    gaps = {split: shown_gaps(numbers) for split, numbers in splits.items()}
    failed = [f"failed, and left out: {name} ({reason})" for name, reason in result["failed"].items()]
    parts = [
        f"{result['run']}: {scheme['guide']}, {scheme['family']}{refiner}",
        f"bounds on log p(x), nats a datapoint: mean ± standard error over {'groups of ' if grouped else ''}datapoints "
        f"({told}); IWAE\nfrom {settings['num_samples']} draws",
        _of_splits(splits, _BOUNDS),
        "the gap log p̂ − ELBO: approximation at the best q of the family, λ*; amortization from λ₀ to λ*, of which "
        "refinement\nrecovered some and some remains",
        _of_splits(gaps, {part: part for part in GAPS}),
        "the representation: latent dimensions in use by their KL, at λ_K reconstruction and accuracies of probes",
        _of_splits(splits, _REPRESENTATION, digits=3),
        "\n".join(_once(result)),
        "\n".join(failed),
        f"numbers: {result['run']}/evaluation.json, .npz; pictures: {result['run']}/figures",
    ]
    return "\n\n".join(filter(None, parts))


def _once(result: Mapping[str, Any]) -> list[str]:
    """What was measured on the main split alone."""
    lines = []
    if ais := result.get("ais"):
        above = f"{number(ais)}, {number(ais.get('minus_log_evidence'))} above log p̂ of the same"
        lines.append(f"annealed importance sampling, {ais['num_data']} of {result['main']}: {above}")
    if bdmc := result.get("bdmc"):
        between = f"between {number(bdmc['lower'])} and {number(bdmc['upper'])}"
        lines.append(f"bidirectional, {bdmc['num_data']} drawn from the model: {between}")
    if found := result.get("calibration"):
        verdict = f"{'' if found['calibrated'] else 'not '}calibrated (p = {found['p_value']:.2g})"
        inside = number(found["coverage"]["0.9"]["mean"])
        lines.append(f"calibration: {verdict}; 90 % intervals hold {inside} of the truth")
    return lines


def _of_splits(splits: Mapping[str, Any], columns: Mapping[str, str], digits: int = 2) -> str:
    """A row a split, in columns side by side: names to the left, numbers to the right."""
    rows = [["", *columns]]
    for split, numbers in splits.items():
        rows.append([split, *(number(lookup(numbers, path), digits) for path in columns.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def grouped_warnings(warnings: Sequence[str], splits: Sequence[str]) -> list[str]:
    """Warnings of several splits that differ in numbers alone as one, that of the first of them."""
    found: dict[str, list[str]] = {}
    for warning in warnings:
        split, mark, text = warning.partition(": ")
        known = bool(mark) and split in splits
        alike = found.setdefault(re.sub(r"[−-]?\d[\d.,]*", "#", text if known else warning), [])
        alike.append(split if alike and known else warning)
    return [first + (f" (likewise {', '.join(others)})" if others else "") for first, *others in found.values()]

"""What an evaluation found, as text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_BOUNDS = {
    "ELBO at λ₀": "elbo_init",
    "ELBO at λ_K": "elbo",
    "ELBO at λ*": "elbo_optimum",
    "IWAE": "iwae",
    "log p̂": "log_evidence",
}
_GAPS = {  # as the difference of two levels
    "approximation": ("log_evidence", "elbo_optimum"),
    "amortization": ("elbo_optimum", "elbo_init"),
    "recovered": ("elbo", "elbo_init"),
    "remaining": ("elbo_optimum", "elbo"),
    "inference": ("log_evidence", "elbo"),
}
_REPRESENTATION = {
    "in use at λ₀": "dims_in_use_init",
    "in use at λ_K": "dims_in_use",
    "MSE": "reconstruction.mse",
    "R²": "reconstruction.r2",
    "k-NN": "probe.knn",
    "linear probe": "probe.linear",
}


def number(value: Any, digits: int = 2) -> str:
    """A number, or an estimate with its standard error; a dash where there is none.

    >>> number({"mean": -1.234, "se": 0.056}), number(None)
    ('−1.23 ± 0.06', '–')
    """
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

    Args:
        numbers: `elbo_init`, `elbo`, `elbo_optimum`, `log_evidence` and `gap` of a split; what is missing is left out.
        digits: To which the levels are printed.

    >>> levels = {"elbo": {"mean": -1.004}, "log_evidence": {"mean": -0.995}}
    >>> shown_gaps(levels | {"gap": {"inference": {"mean": 0.009, "se": 0.001}}})
    {'inference': {'mean': 0.0, 'se': 0.001}}
    """
    found = {}
    for part, ends in _GAPS.items():
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
    alike = len(set(sizes.values())) == 1
    told = (
        f"{next(iter(sizes.values()))} a split" if alike else ", ".join(f"{n} of {name}" for name, n in sizes.items())
    )
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
        _of_splits(gaps, {part: part for part in _GAPS}),
        "the representation: latent dimensions in use, by their KL to the prior, and at λ_K errors of reconstruction "
        "and\naccuracies of probes",
        _of_splits(splits, _REPRESENTATION, digits=3),
        *_once(result),
        *(["\n".join(failed)] if failed else []),
        f"numbers: {result['run']}/evaluation.json, .npz; pictures: {result['run']}/figures",
    ]
    return "\n\n".join(parts)


def _once(result: Mapping[str, Any]) -> list[str]:
    """What was measured on the main split alone."""
    lines = []
    if ais := result.get("ais"):
        above = number(ais.get("minus_log_evidence"))
        lines.append(
            f"annealed importance sampling, {ais['num_data']} of {result['main']}: {number(ais)}, "
            f"{above} above log p̂ of the same"
        )
    if bdmc := result.get("bdmc"):
        lower, upper = number(bdmc["lower"]), number(bdmc["upper"])
        lines.append(f"bidirectional, {bdmc['num_data']} drawn from the model: between {lower} and {upper}")
    if found := result.get("calibration"):
        verdict = "calibrated" if found["calibrated"] else "not calibrated"
        inside = number(found["coverage"]["0.9"]["mean"])
        lines.append(f"calibration: {verdict} (p = {found['p_value']:.2g}); 90 % intervals hold {inside} of the truth")
    return ["\n".join(lines)] if lines else []


def _of_splits(splits: Mapping[str, Any], columns: Mapping[str, str], digits: int = 2) -> str:
    """A row a split, in columns side by side: names to the left, numbers to the right."""
    rows = [["", *columns]]
    for split, numbers in splits.items():
        rows.append([split, *(number(lookup(numbers, path), digits) for path in columns.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def grouped_warnings(warnings: Sequence[str], splits: Sequence[str]) -> list[str]:
    """Warnings of several splits that differ in numbers alone as one, that of the first of them.

    >>> grouped_warnings(["val: 3 of 9 are high", "test: 4 of 9 are high", "few draws"], ["test", "val"])
    ['val: 3 of 9 are high (likewise test)', 'few draws']
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for warning in warnings:
        split, mark, text = warning.partition(": ")
        split, text = (split, text) if mark and split in splits else ("", warning)
        found.setdefault(re.sub(r"[−-]?\d[\d.,]*", "#", text), []).append((split, warning))
    others = [", ".join(split for split, _ in group[1:]) for group in found.values()]
    return [
        group[0][1] + (f" (likewise {rest})" if rest else "")
        for group, rest in zip(found.values(), others, strict=True)
    ]

"""What an evaluation found, as text."""

from collections.abc import Mapping, Sequence
from typing import Any


def number(value: Any, digits: int = 2) -> str:
    """A number, or an estimate with its standard error; a dash where there is none."""
    if isinstance(value, Mapping):
        if value.get("mean") is None:
            return "–"
        error = "" if value.get("se") is None else f" ± {value['se']:.{digits}f}"
        return number(value["mean"], digits) + error
    if value is None:
        return "–"
    return f"{value:.{digits}f}".replace("-", "−") if isinstance(value, float) else str(value)


def lookup(numbers: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None if there is none."""
    value: Any = numbers
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


_BOUNDS = {
    "ELBO at λ₀": "elbo_init",
    "ELBO at λ_K": "elbo",
    "ELBO at λ*": "elbo_optimum",
    "IWAE": "iwae",
    "log p̂": "log_evidence",
}
_GAPS = {
    "approximation": "gap.approximation",
    "amortization": "gap.amortization",
    "recovered": "gap.recovered",
    "remaining": "gap.remaining",
}
_REPRESENTATION = {
    "active at λ₀": "active_units_init",
    "active at λ_K": "active_units",
    "MSE": "reconstruction.mse",
    "R²": "reconstruction.r2",
    "k-NN": "probe.knn",
    "linear probe": "probe.linear",
}


def table(result: Mapping[str, Any]) -> str:
    """Tables of an evaluation's numbers, for a terminal."""
    scheme, settings = result["scheme"], result["settings"]
    refiner = "" if scheme["num_steps"] is None else f", K = {scheme['num_steps']}"
    parts = [
        f"{result['run']}: {scheme['guide']}, {scheme['family']}{refiner}",
        "bounds on log p(x), nats a datapoint, mean ± SE over "
        f"{settings['num_data']} datapoints a split, IWAE from {settings['num_samples']} draws",
        _of_splits(result, _BOUNDS),
        "the gap log p̂ − ELBO: approximation at the best q of the family, λ*; amortization from λ₀ to λ*, of which "
        "refinement\nrecovered some and some remains",
        _of_splits(result, _GAPS),
        "the representation: active units, and at λ_K errors of reconstruction and accuracies of probes",
        _of_splits(result, _REPRESENTATION, digits=3),
        *_once(result),
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


def _of_splits(result: Mapping[str, Any], columns: Mapping[str, Any], digits: int = 2) -> str:
    rows = [["", *columns]]
    for split, numbers in result["splits"].items():
        rows.append([split, *(number(lookup(numbers, path), digits) for path in columns.values())])
    return aligned(rows)

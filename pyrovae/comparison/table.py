"""The table: a row for each scheme."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import StringIO
from typing import Any

from .difference import paired_difference
from .measures import Estimate, as_estimate, measure, ms_per_image, over_seeds
from .results import Result, by_scheme

Row = dict[str, str | int | Estimate | None]

_MEASURES = ("elbo_init", "elbo", "iwae", "approximation", "amortization", "recovered", "active_units", "knn")
_READERS: dict[str, Callable[[Mapping[str, Any]], Estimate | None]] = {
    **{name: partial(measure, name=name) for name in _MEASURES},
    "ms_per_image": ms_per_image,
}
_DECIMALS = {"active_units": 1, "train_seconds": 0, "knn": 3}  # of the others 2


def rows(results: Sequence[Result]) -> list[Row]:
    """Means over seeds; `difference` is of ELBOs at λ_K, image by image, to those of the first scheme."""
    groups = by_scheme(results)
    first = next(iter(groups.values()), [])
    table: list[Row] = []
    for scheme, group in groups.items():
        evaluations = [result.evaluation for result in group]
        row: Row = {"scheme": scheme, "family": _family(evaluations[0]), "seeds": len(group)}
        for name, read in _READERS.items():
            row[name] = over_seeds([read(evaluation) for evaluation in evaluations])
        row["train_seconds"] = over_seeds([result.train_seconds for result in group])
        difference = None if group is first else paired_difference(first, group)
        row["difference"] = None if difference is None else Estimate(difference.mean, difference.se)
        row["difference_over_seeds"] = None if difference is None else as_estimate(_known(difference.se_over_seeds))
        table.append(row)
    return table


def headings(results: Sequence[Result]) -> dict[str, str]:
    """Column -> heading, of columns that hold something."""
    samples = {(result.evaluation.get("settings") or {}).get("num_samples") for result in results}
    k = samples.pop() if len(samples) == 1 else None
    first = results[0].cell.scheme if results else ""
    names = {
        "scheme": "scheme",
        "family": "family",
        "seeds": "seeds",
        "elbo_init": "ELBO at λ₀",
        "elbo": "ELBO at λ_K",
        "iwae": f"IWAE-{k}" if k else "IWAE",
        "approximation": "approximation gap",
        "amortization": "amortization gap",
        "recovered": "recovered",
        "active_units": "active units",
        "knn": "kNN probe",
        "train_seconds": "training, s",
        "ms_per_image": "ms an image",
        "difference": f"ELBO minus that of {first}",
        "difference_over_seeds": "its SE over seeds",
    }
    table = rows(results)
    return {key: text for key, text in names.items() if any(row[key] is not None for row in table)}


def cells_of(row: Row, columns: Mapping[str, str]) -> list[str]:
    """A row as text."""
    return [_text(row[key], "+" if key == "difference" else "", _DECIMALS.get(key, 2)) for key in columns]


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""

    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    return "\n".join([line(header), "|---" * len(header) + "|", *map(line, lines)]) + "\n"


def to_csv(results: Sequence[Result]) -> str:
    """All digits: each estimate in two columns, mean and standard error; empty where nothing was measured."""
    columns = headings(results)
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    table = rows(results)
    wide = {key for key in columns if any(isinstance(row[key], Estimate) for row in table)}
    writer.writerow([name for key in columns for name in ([key, f"{key}_se"] if key in wide else [key])])
    for row in table:
        line: list[Any] = []
        for key in columns:
            value = row[key]
            if key in wide:
                found = value if isinstance(value, Estimate) else None
                line += ["", ""] if found is None else [found.mean, "" if math.isnan(found.se) else found.se]
            else:
                line.append(value)
        writer.writerow(line)
    return out.getvalue()


def number(value: float, decimals: int = 2, sign: str = "") -> str:
    """With a minus, not a hyphen."""
    return f"{value:{sign}.{decimals}f}".replace("-", "−")


def estimate_text(value: Estimate | None, sign: str = "", decimals: int = 2) -> str:
    """`−95.20 ± 0.31`; a dash where nothing was measured."""
    if value is None or math.isnan(value.mean):
        return "–"
    error = "" if math.isnan(value.se) else f" ± {number(value.se, decimals)}"
    return number(value.mean, decimals, sign) + error


def _text(value: Any, sign: str, decimals: int) -> str:
    is_estimate = value is None or isinstance(value, Estimate)
    return estimate_text(value, sign, decimals) if is_estimate else str(value)


def _family(evaluation: Mapping[str, Any]) -> str:
    return str((evaluation.get("scheme") or {}).get("family") or "–")


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value

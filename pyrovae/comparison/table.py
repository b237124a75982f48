"""The tables: a row for each scheme, as text and as CSV."""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ..evaluation.table import GAPS, shown_gaps
from .results import (
    MEASURES,
    Difference,
    Estimate,
    Result,
    by_scheme,
    nested,
    over_seeds,
    paired_difference,
    pooled,
    stacked,
)

# Read from left to right.
LEVELS = {"elbo_init": "ELBO at λ₀", "elbo": "ELBO at λ_K", "elbo_optimum": "ELBO at λ*", "log_evidence": "log p̂"}
_WORDS = {"recovered": "recovered by steps", "remaining": "amortization gap left"}  # of the others: approximation gap
_MORE = {  # heading, decimals
    "iwae": ("IWAE at λ_K", 2),
    "dims_in_use": ("dimensions in use", 1),
    "knn": ("kNN probe", 3),
    "linear": ("linear probe", 3),
    "mse": ("MSE", 4),
    "train_seconds": ("training, s", 1),
    "ms_per_image": ("inference, ms each", 2),
}
_NAMES = {"nll": "negative log-likelihood (−IWAE)", "iwae": "IWAE", **LEVELS, "log_evidence": "log p(x)"}
_NOTHING = "–"


class Entry(NamedTuple):
    """What stands in a table: a text, its error, or links."""

    text: str
    error: str = ""
    links: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.text} ± {self.error}" if self.error else self.text


class Table(NamedTuple):
    """Lines of entries, the first of which names a scheme."""

    heading: str
    columns: Sequence[str]
    lines: Sequence[Sequence[Entry]]


class Row(NamedTuple):
    """A scheme's means over images and seeds, and the difference of its ELBO at λ_K to that of the first scheme."""

    scheme: str
    group: Sequence[Result]
    estimates: Mapping[str, Estimate]
    gaps: Mapping[str, Mapping[str, float]]  # of the rounded levels
    num_left_out: int
    difference: Difference | None
    told: Entry


def rows(results: Sequence[Result], split: str) -> list[Row]:
    """A row for each scheme, in order."""
    table: list[Row] = []
    for scheme, group in by_scheme(results).items():
        estimates, left_out = _estimates(group, split)
        difference, told = paired_difference(table[0].group, group, split=split) if table else None, Entry(_NOTHING)
        if difference is not None:
            estimates["difference"] = Estimate(difference.mean, difference.se)
            # Told as that of the rounded levels, if these are as far apart: the column can be checked by hand.
            levels = [of.get("elbo", Estimate(math.nan)).mean for of in (table[0].estimates, estimates)]
            rounded, mean = round(levels[1], 2) - round(levels[0], 2), difference.mean
            told = entry(Estimate(rounded if abs(rounded - mean) < 0.011 else mean, difference.se), "+")
        numbers = {name: estimate._asdict() for name, estimate in estimates.items()}
        gaps = shown_gaps({**numbers, "gap": numbers})
        table.append(Row(scheme, group, estimates, gaps, left_out, difference, told))
    return table


def _estimates(group: Sequence[Result], split: str) -> tuple[dict[str, Estimate], int]:
    """All that was measured; levels and gaps of one set of images, and how many are left out of these as not finite."""
    taken = {name: [result.measure(name, split) for result in group] for name in MEASURES}
    taken |= {name: [getattr(result, name) for result in group] for name in ("train_seconds", "ms_per_image")}
    found = {name: over_seeds(estimates) for name, estimates in taken.items()}
    for name in ("iwae", "mse"):
        values, _, groups = stacked(group, [name], split)
        found[name] = pooled(values[0], groups) if values.size else found[name]
    names = [name for name in LEVELS if all(taken[name])]
    values, left_out, groups = stacked(group, names, split)
    if values.size:
        level = dict(zip(names, values, strict=True))
        found |= {name: pooled(part, groups) for name, part in level.items()}
        ends = {gap: pair for gap, pair in GAPS.items() if {*pair} <= level.keys()}
        found |= {gap: pooled(level[high] - level[low], groups) for gap, (high, low) in ends.items()}
    return {name: value for name, value in found.items() if value is not None}, left_out


def levels_table(table: Sequence[Row]) -> Table:
    """Where each scheme stands, and what lies between: rounded levels, and the differences of these."""
    names = [name for name in LEVELS if all(name in row.estimates for row in table)]
    recovered = [row.estimates.get("recovered", Estimate(math.inf)).mean for row in table]
    if names[:2] == ["elbo_init", "elbo"] and all(abs(mean) < 0.005 for mean in recovered):
        names.remove("elbo_init")  # nothing refines
    header, lines = ["scheme"], [[Entry(row.scheme)] for row in table]
    if any(row.difference for row in table):
        header.append(f"ELBO − that of {table[0].scheme}")
        lines = [[*line, row.told] for line, row in zip(lines, table, strict=True)]
    for before, name in zip(["", *names], names, strict=False):
        gap = next((gap for gap, ends in GAPS.items() if ends == (name, before)), "")
        header += [f"+ {_WORDS.get(gap, f'{gap} gap')}", f"= {LEVELS[name]}"] if gap else [LEVELS[name]]
        for row, line in zip(table, lines, strict=True):
            if gap:
                line.append(entry(Estimate(row.gaps[gap]["mean"], row.gaps[gap]["se"] or 0.0)))
            line.append(entry(row.estimates[name]))
    return Table("Where the nats are", header, lines)


def more_table(table: Sequence[Row]) -> Table:
    """Other measures, and what they cost."""
    lines = [[Entry(row.scheme), *(entry(row.estimates.get(n), "", d) for n, (_, d) in _MORE.items())] for row in table]
    return Table("Other measures, and the cost", ["scheme", *(heading for heading, _ in _MORE.values())], lines)


def runs_table(table: Sequence[Row], out: Path) -> Table:
    """What the schemes are, and links to their runs."""
    names, lines = ("guide", "family", "refiner", "objective", "num_steps"), []
    for row in table:
        evaluation = row.group[0].evaluation
        texts = [str(nested(evaluation, "scheme", name) or _NOTHING) for name in names]
        size = evaluation.get("num_parameters")
        runs = {str(r.cell.seed): os.path.relpath(r.cell.run_dir, out).replace(os.sep, "/") for r in row.group}
        links = Entry(", ".join(runs), links=tuple((seed, quote(path)) for seed, path in runs.items()))
        lines.append([*map(Entry, [row.scheme, *texts, f"{size:,}" if size else _NOTHING]), links])
    return Table("The runs", ["scheme", *names[:-1], "K", "parameters", "runs, by seed"], lines)


def without_constants(table: Table) -> tuple[Table, dict[str, str]]:
    """The table without columns that hold nothing, or the same for all schemes; and what these hold."""
    columns = dict(zip(table.columns, zip(*table.lines, strict=True), strict=False))
    gone = {
        name: str(values[0])
        for name, values in columns.items()
        if len({*values}) == 1 and name != "scheme" and (len(values) > 1 or values[0] == Entry(_NOTHING))
    }
    kept = {name: values for name, values in columns.items() if name not in gone}
    short = Table(table.heading, [*kept], list(zip(*kept.values(), strict=True)))
    return short, {name: text for name, text in gone.items() if text != _NOTHING}


def published_table(published: Mapping[str, Mapping[str, float | str]], results: Sequence[Result], split: str) -> Table:
    """A line for each published number; those not obtained yet have a dash."""
    groups, lines = by_scheme(results), []
    for scheme, numbers in published.items():
        for name, value in numbers.items():
            if name != "source":
                obtained = over_seeds(result.measure(name, split) for result in groups.get(scheme, []))
                gap = obtained and Estimate(obtained.mean - float(value))
                words = (scheme, _NAMES.get(name, name.replace("_", " ")), number(float(value)))
                source = Entry(str(numbers.get("source", "")))
                lines.append([*map(Entry, words), entry(obtained), entry(gap, "+"), source])
    header = ["scheme", "measure", "published", "obtained", "obtained − published", "source"]
    return Table("Published and obtained", header, lines)


def number(value: float, decimals: int = 2, sign: str = "") -> str:
    """With a minus, not a hyphen; never minus zero."""
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}".replace("-", "−")


def entry(value: Estimate | None, sign: str = "", decimals: int = 2) -> Entry:
    """`−95.20 ± 0.31`; a dash where nothing was measured."""
    if value is None or math.isnan(value.mean):
        return Entry(_NOTHING)
    return Entry(number(value.mean, decimals, sign), "" if math.isnan(value.se) else number(value.se, decimals))


_TEX = {**{c: f"\\{c}" for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\^{}"}
_TEX |= {"λ₀": r"$\lambda_0$", "λ_K": r"$\lambda_K$", "λ*": r"$\lambda^*$", "p̂": r"$\hat p$"}
_TEX |= {"−": "$-$", "–": "--", "±": r"$\pm$"}
_TEX_PARTS = re.compile("|".join(re.escape(text) for text in sorted(_TEX, key=len, reverse=True)))


def latex(text: object) -> str:
    """Text as LaTeX has it."""
    return _TEX_PARTS.sub(lambda match: _TEX[match[0]], str(text))


def short_csv(table: Sequence[Row]) -> Iterable[Sequence[object]]:
    """Rows of a file, of all digits: estimates as mean and standard error; empty where nothing was measured."""
    names = list(dict.fromkeys(name for row in table for name in row.estimates))
    yield ["scheme", "seeds", *(column for name in names for column in (name, f"{name}_se"))]
    for row in table:
        found = (row.estimates.get(name, Estimate(math.nan)) for name in names)
        yield [row.scheme, len(row.group), *("" if math.isnan(value) else value for one in found for value in one)]


def long_csv(results: Sequence[Result]) -> Iterator[Sequence[object]]:
    """Rows of a file: every value of every image."""
    yield "scheme", "seed", "split", "image", "measure", "value"
    for result in results:
        for key, values in result.values.items():
            split, _, name = key.partition("/")
            index = result.values.get(f"{split}/index")
            if index is not None and name != "index" and values.shape == index.shape:
                for image, value in zip(index.tolist(), values.tolist(), strict=True):
                    yield result.cell.scheme, result.cell.seed, split, image, name, value

"""The tables: a row for each scheme; as Markdown, LaTeX and CSV."""

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from .measures import Estimate, measure, ms_per_image, over_seeds, pooled, trained_num_steps
from .results import Difference, Result, by_scheme, paired_difference, stacked

LEVELS = {  # what is read from left to right: a level, and the gap to the next one
    "elbo_init": "ELBO at λ₀",
    "elbo": "ELBO at λ_K",
    "elbo_optimum": "ELBO at λ*",
    "log_evidence": "log p̂",
}
_GAPS = {
    ("elbo_init", "elbo"): ("recovered", "+ recovered by steps"),
    ("elbo", "elbo_optimum"): ("remaining", "+ amortization gap left"),
    ("elbo_optimum", "log_evidence"): ("approximation", "+ approximation gap"),
    ("elbo", "log_evidence"): ("inference", "+ inference gap"),
    ("elbo_init", "elbo_optimum"): ("amortization", "+ amortization gap"),
}
_MORE = {
    "iwae": "IWAE at λ_K",
    "dims_in_use": "dimensions in use",
    "knn": "kNN probe",
    "linear": "linear probe",
    "mse": "MSE",
    "train_seconds": "training, s",
    "ms_per_image": "inference, ms each",
}
_DECIMALS = {"dims_in_use": 1, "train_seconds": 0, "knn": 3, "linear": 3, "mse": 4}  # of the others 2
_ARRAYS = {"knn": "knn_correct", "linear": "linear_correct"}  # in evaluation.npz
NO_VALUE = "–"


class Entry(NamedTuple):
    """What stands in a table: a text, its error, or links."""

    text: str
    error: str = ""
    links: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.text} ± {self.error}" if self.error else self.text


@dataclass(frozen=True)
class Table:
    """A heading, a table of entries whose first column names a scheme, and what is below."""

    heading: str
    columns: Sequence[str]
    lines: Sequence[Sequence[Entry]]
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """The numbers of a scheme: means over images and seeds. `difference` is of ELBOs at λ_K to the first scheme's."""

    scheme: str
    group: Sequence[Result]
    estimates: Mapping[str, Estimate]
    difference: Difference | None = None
    num_left_out: int = 0
    first: Mapping[str, Estimate] = field(default_factory=dict)  # of the scheme that it is compared with

    @property
    def difference_text(self) -> Entry:
        """Of the rounded levels, where these differ by as much, so that the column can be checked by hand."""
        if self.difference is None:
            return Entry(NO_VALUE)
        shown, levels = self.difference.mean, [side.get("elbo") for side in (self.first, self.estimates)]
        if all(levels):
            rounded = round(levels[1].mean, 2) - round(levels[0].mean, 2)  # type: ignore[union-attr]
            shown = rounded if abs(rounded - shown) < 0.011 else shown
        return Entry(number(shown, 2, "+"), number(self.difference.se))


def rows(results: Sequence[Result], split: str) -> list[Row]:
    """A row for each scheme, in order."""
    groups = by_scheme(results)
    first, of_first, table = next(iter(groups.values()), []), dict[str, Estimate](), list[Row]()
    for scheme, group in groups.items():
        estimates, left_out = _levels(group, split)
        evaluations = [result.evaluation for result in group]
        for name in ("iwae", "dims_in_use", "dims_in_use_init", "knn", "linear", "mse"):
            estimates[name] = _mean(group, name, split)
        estimates["train_seconds"] = over_seeds([result.train_seconds for result in group])
        estimates["ms_per_image"] = over_seeds([ms_per_image(evaluation) for evaluation in evaluations])
        known = {name: value for name, value in estimates.items() if value is not None}
        of_first = of_first or known
        difference = None if group is first else paired_difference(first, group, split=split)
        table.append(Row(scheme, group, known, difference, left_out, of_first))
    return table


def _levels(group: Sequence[Result], split: str) -> tuple[dict[str, Estimate | None], int]:
    """Levels and the gaps between them, all of the same images; and how many are left out as not finite."""
    names = [name for name in LEVELS if all(measure(result.evaluation, name, split) for result in group)]
    pairs = [pair for pair in _GAPS if {*pair} <= {*names}]
    found = stacked(group, names, split) if names else None
    if found is None or not found[0].size:  # nothing per datapoint
        wanted = [*names, *(_GAPS[pair][0] for pair in pairs)]
        return {name: over_seeds([measure(r.evaluation, name, split) for r in group]) for name in wanted}, 0
    level = dict(zip(names, found[0], strict=True))
    gaps = {_GAPS[one, two][0]: pooled(level[two] - level[one]) for one, two in pairs}
    return {**{name: pooled(values) for name, values in level.items()}, **gaps}, found[1]


def _mean(group: Sequence[Result], name: str, split: str) -> Estimate | None:
    estimates = [measure(result.evaluation, name, split) for result in group]
    found = stacked(group, [_ARRAYS.get(name, name)], split) if all(estimates) else None
    return over_seeds(estimates) if found is None or not found[0].size else pooled(found[0][0])


def levels_table(table: Sequence[Row]) -> Table:
    """Where each scheme stands, and what lies between: rounded levels, and the differences of these."""
    names = [name for name in LEVELS if all(name in row.estimates for row in table)]
    nothing = [row.estimates[name].mean for row in table for name in ("recovered",) if name in row.estimates]
    refines = any(abs(mean) >= 0.005 for mean in nothing)
    if len(names) > 1 and not refines and "elbo_init" in names:
        names.remove("elbo_init")
    header = ["scheme", f"ELBO − that of {table[0].scheme}"] if any(row.difference for row in table) else ["scheme"]
    lines = [[Entry(row.scheme), *([row.difference_text] if header[1:] else [])] for row in table]
    for i, name in enumerate(names):
        gap = _GAPS.get((names[i - 1], name)) if i else None
        header += [gap[1], f"= {LEVELS[name]}"] if gap else [LEVELS[name]]
        for row, line in zip(table, lines, strict=True):
            value = row.estimates[name]
            if gap:
                size = round(value.mean, 2) - round(row.estimates[names[i - 1]].mean, 2)
                line.append(entry(Estimate(size, row.estimates.get(gap[0], value).se)))
            line.append(entry(value))
    caption = (
        "Nats a datapoint. λ₀ is where inference starts, an encoder's output say, λ_K where it ends, λ* the best q of "
        "the family for each datapoint, log p̂ the highest importance-weighted bound. From left to right each level plus the "
        "gap behind it is the next level"
    )
    caption += "; what steps recovered and what is left add up to the amortization gap." if refines else "."
    caption += "" if refines or not nothing else " No scheme refines, so λ₀ is λ_K."
    return Table("Where the nats are", header, lines, caption)


def more_table(table: Sequence[Row]) -> Table:
    """Other measures, and what they cost."""
    names = [name for name in _MORE if any(name in row.estimates for row in table)]
    lines = [
        [Entry(row.scheme), *(entry(row.estimates.get(name), "", _DECIMALS.get(name, 2)) for name in names)]
        for row in table
    ]
    return Table("Other measures, and the cost", ["scheme", *(_MORE[name] for name in names)], lines)


def runs_table(table: Sequence[Row], out: Path) -> Table:
    """What the schemes are, and links to their runs."""
    names = {"guide": "guide", "family": "family", "refiner": "refiner", "objective": "objective", "num_steps": "K"}
    header = ["scheme", *names.values(), "parameters", "runs, by seed"]
    lines = []
    for row in table:
        evaluation = row.group[0].evaluation
        about = {**(evaluation.get("scheme") or {}), "num_steps": trained_num_steps(evaluation)}
        size = evaluation.get("num_parameters")
        links = tuple((str(r.cell.seed), quote(_relative(r.cell.run_dir, out))) for r in row.group)
        texts = [str(about.get(name) or NO_VALUE) for name in names] + [f"{size:,}" if size else NO_VALUE]
        lines.append([Entry(row.scheme), *map(Entry, texts), Entry(", ".join(seed for seed, _ in links), links=links)])
    return Table("The runs", header, lines)


def _relative(path: Path, out: Path) -> str:
    try:
        return Path(os.path.relpath(path, out)).as_posix()
    except ValueError:  # another drive
        return path.resolve().as_uri()


def without_constants(table: Table) -> tuple[Table, dict[str, str]]:
    """The table without columns that hold the same for all schemes, or nothing; and what these hold."""
    columns = list(zip(*table.lines, strict=True))
    same = [len(set(column)) == 1 and (len(table.lines) > 1 or str(column[0]) == NO_VALUE) for column in columns]
    same[0] = False
    kept = [i for i, is_same in enumerate(same) if not is_same]
    gone = {table.columns[i]: str(columns[i][0]) for i, is_same in enumerate(same) if is_same}
    lines = [[line[i] for i in kept] for line in table.lines]
    short = Table(table.heading, [table.columns[i] for i in kept], lines, table.caption)
    return short, {name: text for name, text in gone.items() if text != NO_VALUE}


_PUBLISHED = {"nll": "negative log-likelihood (−IWAE)", "iwae": "IWAE", **LEVELS, "log_evidence": "log p(x)"}


def published_table(published: Mapping[str, Mapping[str, float | str]], results: Sequence[Result], split: str) -> Table:
    """A line for each published number; those not obtained yet have a dash."""
    groups, lines = by_scheme(results), []
    for scheme, numbers in published.items():
        for name in (name for name in numbers if name != "source"):
            obtained = over_seeds([measure(result.evaluation, name, split) for result in groups.get(scheme, [])])
            value = float(numbers[name])
            gap = Estimate(math.nan if obtained is None else obtained.mean - value)
            texts = [scheme, _PUBLISHED.get(name, name.replace("_", " ")), number(value)]
            found = [entry(obtained), entry(gap, "+"), Entry(str(numbers.get("source", "")))]
            lines.append([*map(Entry, texts), *found])
    header = ["scheme", "measure", "published", "obtained", "obtained − published", "source"]
    return Table("Published and obtained", header, lines)


def number(value: float, decimals: int = 2, sign: str = "") -> str:
    """With a minus, not a hyphen; never minus zero."""
    return f"{round(value, decimals) + 0.0:{sign}.{decimals}f}".replace("-", "−")


def entry(value: Estimate | None, sign: str = "", decimals: int = 2) -> Entry:
    """`−95.20 ± 0.31`; a dash where nothing was measured."""
    if value is None or math.isnan(value.mean):
        return Entry(NO_VALUE)
    return Entry(number(value.mean, decimals, sign), "" if math.isnan(value.se) else number(value.se, decimals))


def markdown(table: Table) -> str:
    """A table in Markdown."""

    def line(texts: Sequence[Any]) -> str:
        return "| " + " | ".join(str(text).replace("|", "\\|") for text in texts) + " |"

    return "\n".join([line(table.columns), "|---" * len(table.columns) + "|", *map(line, table.lines)]) + "\n"


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    c: f"\\{c}" for c in "&%$#_{}"
}
_TEX |= {
    "λ₀": r"$\lambda_0$",
    "λ_K": r"$\lambda_K$",
    "λ*": r"$\lambda^*$",
    "p̂": r"$\hat p$",
    "−": "$-$",
    "–": "--",
    "±": r"$\pm$",
}


def latex(table: Table) -> str:
    """A table in LaTeX, for the package `booktabs`."""

    def escaped(text: str) -> str:
        found, i = "", 0
        while i < len(text):
            key = next((key for key in sorted(_TEX, key=len, reverse=True) if text.startswith(key, i)), text[i])
            found, i = found + _TEX.get(key, key), i + len(key)
        return found

    lines = [" & ".join(escaped(str(item)) for item in line) + r" \\" for line in (table.columns, *table.lines)]
    rules = ["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"]
    head = [
        f"% {table.caption}",
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
    ]
    return "\n".join([*head, *rules, "\\end{tabular}"]) + "\n"


def to_csv(table: Sequence[Row]) -> str:
    """All digits: each estimate in two columns, mean and standard error; empty where nothing was measured."""
    found = [
        {**row.estimates, **({"difference": Estimate(*row.difference[:2])} if row.difference else {})} for row in table
    ]
    names = list(dict.fromkeys(name for part in found for name in part))
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["scheme", "seeds", *(column for name in names for column in (name, f"{name}_se"))])
    for row, part in zip(table, found, strict=True):
        pairs = [part.get(name, Estimate(math.nan)) for name in names]
        values = ["" if math.isnan(value) else value for pair in pairs for value in pair]
        writer.writerow([row.scheme, len(row.group), *values])
    return out.getvalue()


def long_csv(results: Sequence[Result]) -> Iterator[str]:
    """Every value of every image, a line each, in pieces: scheme, seed, split, image, measure, value."""
    yield "scheme,seed,split,image,measure,value\n"
    for result in results:
        for key, values in result.values.items():
            split, _, name = key.partition("/")
            index = result.values.get(f"{split}/index")
            if index is None or name == "index" or values.shape != index.shape:
                continue
            out = StringIO()
            what = (result.cell.scheme, result.cell.seed, split)
            pairs = zip(index.tolist(), np.asarray(values).tolist(), strict=True)
            csv.writer(out, lineterminator="\n").writerows([*what, image, name, value] for image, value in pairs)
            yield out.getvalue()

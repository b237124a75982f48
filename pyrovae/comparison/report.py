"""The folder that a comparison writes: tables, figures, and one page with all of it."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..files import replacing
from .figures import FIGURES
from .plan import Cell
from .results import Result, same_images
from .table import (
    Row,
    Table,
    latex,
    levels_table,
    long_csv,
    markdown,
    more_table,
    published_table,
    rows,
    runs_table,
    to_csv,
    without_constants,
)

_FIGURES = {name: draw for name, (draw, _) in FIGURES.items()}
_TOLD = 5  # differences that a sentence holds


class Failed(Protocol):
    """A cell that has no result: which, its exit code, the last thing that it said, and where all of it is."""

    cell: Cell
    code: int
    message: str
    log: Path


@dataclass(frozen=True)
class Warned:
    """A warning, and the cells that have it."""

    text: str
    cells: Sequence[Cell] = ()


def write_report(
    out: Path,
    results: Sequence[Result],
    *,
    title: str = "Comparison",
    failures: Sequence[Any] = (),
    published: Mapping[str, Mapping[str, float | str]] = {},
    settings: str = "",
    run: Mapping[str, Any] = {},
    unreadable: Sequence[str] = (),
    split: str | None = None,
) -> None:
    """Writes `report.html`, `table.md`, `table.csv`, `table.tex`, `values.csv` and `figures/`, each whole or not at all.

    Args:
        out: Folder.
        results: Evaluated cells; schemes are compared with that of the first.
        title: Of the page.
        failures: Cells that have no result, as `Failed` has it.
        published: Scheme -> published numbers and their source.
        settings: What was run, as text.
        run: How it was run: `engine`, `jobs`.
        unreadable: What `read_results` could not read.
        split: What is compared; by default the first result's main split.

    Raises:
        OSError: A file cannot be written.
    """
    split = split or (results[0].main if results else "test")
    failed = [f"{f.cell.name}: exit code {f.code}: {f.message} (log: {f.log})" for f in failures] + [*unreadable]
    pictures, broken = _draw(out / "figures", results, split)
    table = rows(results, split)
    warned = [Warned(text) for text in broken] + _warnings(results, table, split)
    levels = levels_table(table) if table else Table("", [], [])
    more, same = without_constants(more_table(table)) if table else (levels, {})
    runs, about = without_constants(runs_table(table, out)) if table else (levels, {})
    jobs = run.get("jobs")
    beside = f", {jobs} side by side on this machine" if jobs and jobs > 1 else ""
    caption = f"Seconds are of training steps alone{beside or ', as each run was trained'}."
    if same:
        caption += f" The same for all: {_listed(same)}."
    page = {
        "title": title,
        "headline": _headline(table, split),
        "failed": failed,
        "pictures": {name: (base64.b64encode(png).decode(), FIGURES[name][1]) for name, png in pictures.items()},
        "tables": [levels, Table(more.heading, more.columns, more.lines, caption)] if table else [],
        "published": published_table(published, results, split),
        "warned": warned,
        "marks": _marks(warned),
        "facts": _facts(results, table, about, run, split) if table else {},
        "runs": runs,
        "settings": settings,
    }
    loader = FileSystemLoader(Path(__file__).parent)
    templates = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    _write(out / "table.csv", [to_csv(table)])
    _write(out / "values.csv", long_csv(results))
    _write(out / "table.tex", [latex(levels)] if table else [])
    _write(out / "table.md", [_markdown(page)])
    _write(out / "report.html", [templates.get_template("report.html.j2").render(page)])


def _write(path: Path, parts: Any) -> None:
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(parts)


def _draw(folder: Path, results: Sequence[Result], split: str) -> tuple[dict[str, bytes], list[str]]:
    """The figures as PNG, and a line for each that cannot be drawn: it takes no other down."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, broken = dict[str, bytes](), []
    for name, draw in _FIGURES.items():
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)  # no picture of what is no longer compared
        try:
            figure = draw(results, split) if results else None
            if figure is not None:
                with replacing(path) as part:
                    figure.savefig(part, dpi=150, format="png")
                pictures[name] = path.read_bytes()
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            broken.append(f"figures/{name}.png: not drawn ({type(error).__name__}: {error})")
    return pictures, broken


def _headline(table: Sequence[Row], split: str) -> str:
    """The result in one sentence, and of what it holds."""
    told = [(row, row.difference) for row in table if row.difference is not None]
    if not told:
        return f"{len(table)} {'scheme' if len(table) == 1 else 'schemes'}, of which none can be subtracted from the first."
    first, seeds = table[0].scheme, min(difference.num_seeds for _, difference in told)
    told.sort(key=lambda item: -item[1].mean)
    parts = []
    for i, (row, difference) in enumerate(told[:_TOLD]):
        text = row.difference_text
        size = f"{text.text.lstrip('+−')} ± {text.error} nats"
        low, high = difference.interval
        to = "it" if i else first
        parts.append(
            f"{row.scheme} gains {size} over {to}" if low > 0
            else f"{row.scheme} loses {size} to {to}" if high < 0
            else f"{row.scheme} cannot be told from {to} ({text} nats)"
        )  # fmt: skip
    more = f"; {len(told) - _TOLD} more are in the table" if len(told) > _TOLD else ""
    num = sorted({difference.num_images for _, difference in told})
    noun = _noun(table[0].group[0], split)
    what = f"On {' to '.join(map(str, {num[0]: 0, num[-1]: 0}))} {split} {noun}s, by ELBO at λ_K: {'; '.join(parts)}{more}."
    if seeds > 1:
        return f"{what} ± is one standard error over {noun}s and {seeds} seeds."
    return f"{what} ± is one standard error over {noun}s: with one seed, this is about these runs, not these schemes."


def _noun(result: Result, split: str) -> str:
    inputs = result.values.get(f"{split}/inputs")
    return "image" if inputs is not None and inputs.ndim == 4 else "datapoint"


def _warnings(results: Sequence[Result], table: Sequence[Row], split: str) -> list[Warned]:
    """All there are; a text that cells share, numbers aside, once."""
    found = []
    if any(not same_images(results[0], result, split) for result in results[1:]):
        lacking = [result.cell for result in results if not result.sketch(split)]
        text = "These results are of different data; only those of the same are subtracted."
        old = f"These evaluations do not tell their {split} data from others, so nothing is subtracted; evaluate again."
        found.append(Warned(old, lacking) if lacking else Warned(text))
    if len({str(result.evaluation.get("settings")) for result in results}) > 1:
        found.append(Warned("These runs were evaluated with different settings; see evaluation.json of each."))
    for row in table:
        cells = [result.cell for result in row.group]
        if row.num_left_out:
            found.append(
                Warned(f"{row.num_left_out} {split} datapoints are not finite and left out of its means.", cells)
            )
        if row.difference and row.difference.num_left_out:
            text = f"{row.difference.num_left_out} {split} datapoints are not finite and left out of its difference."
            found.append(Warned(text, cells))
    grouped: dict[str, list[tuple[str, Cell]]] = {}
    for result in results:
        failed = (f"{name}: failed ({why})" for name, why in (result.evaluation.get("failed") or {}).items())
        for text in (*(result.evaluation.get("warnings") or []), *failed):
            grouped.setdefault(_NUMBER.sub("#", text), []).append((text, result.cell))
    return found + [
        Warned(_common([text for text, _ in group]), [cell for _, cell in group]) for group in grouped.values()
    ]


_NUMBER = re.compile(r"[-−+]?\d+(?:[.,]\d+)*")


def _common(texts: Sequence[str]) -> str:
    """Texts that differ in their numbers, as one.

    >>> _common(["k̂ of 3 of 50 is high", "k̂ of 12 of 50 is high"])
    'k̂ of 3 to 12 of 50 is high'
    """
    columns = iter(zip(*(_NUMBER.findall(text) for text in texts), strict=True))

    def shown(match: re.Match[str]) -> str:
        values = sorted(next(columns), key=lambda text: float(text.replace("−", "-").replace(",", "")))
        return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"

    return _NUMBER.sub(shown, texts[0])


def _marks(warned: Sequence[Warned]) -> dict[str, list[tuple[int, str]]]:
    """Scheme -> numbers and texts of its warnings."""
    marks: dict[str, list[tuple[int, str]]] = {}
    for i, one in enumerate(warned, 1):
        for scheme in dict.fromkeys(cell.scheme for cell in one.cells):
            marks.setdefault(scheme, []).append((i, one.text))
    return marks


def _facts(
    results: Sequence[Result], table: Sequence[Row], about: Mapping[str, str], run: Mapping[str, Any], split: str
) -> dict[str, str]:
    """Of what, with what, and where it was run."""

    def of_all(read: Any) -> str:
        return "; ".join(dict.fromkeys(text for text in (read(result) for result in results) if text))

    def versions(result: Result) -> str:
        return _listed(result.evaluation.get("versions") or result.summary.get("versions") or {}, "")

    def measured(result: Result) -> str:
        num, trained = result.evaluation["splits"].get(split, {}).get("num_data"), result.summary.get("num_train")
        texts = [f"{num:,} of {split} measured"] if num else []
        return ", ".join([*texts, *([f"{trained:,} trained on"] if trained else [])])

    def machine(result: Result) -> str:
        found = result.summary.get("machine") or {}
        units = {"cores": "cores", "threads": "threads"}
        return ", ".join(f"{value} {units.get(key, '')}".strip() for key, value in found.items() if value)

    settings = ("num_samples", "num_particles", "max_steps", "checkpoint")
    facts = {
        "data": of_all(lambda result: str(result.evaluation.get("dataset") or "")),
        "datapoints": of_all(measured),
        "same for all": _listed(about),
        "seeds": of_all(lambda result: str(result.cell.seed)),
        "evaluation": of_all(
            lambda r: _listed({key: (r.evaluation.get("settings") or {}).get(key) for key in settings}, " ")
        ),
        "versions": of_all(versions),
        "commit": of_all(lambda result: str(result.summary.get("commit") or "")),
        "hardware": of_all(machine),
        "run by": _listed({key: value for key, value in run.items() if not isinstance(value, Mapping)}),
    }
    return {name: text for name, text in facts.items() if text}


def _listed(values: Mapping[str, Any], _: str = "") -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None and value != "")


def _markdown(page: Mapping[str, Any]) -> str:
    parts = [f"# {page['title']}", page["headline"]]
    parts += ["## Failed\n\n" + "\n".join(f"- {text}" for text in page["failed"])] if page["failed"] else []
    for table in (*page["tables"], page["published"]):
        if table.lines:
            parts += [f"## {table.heading}", markdown(table), table.caption]
    if page["warned"]:
        lines = []
        for one in page["warned"]:
            cells = f" ({'; '.join(cell.name for cell in one.cells)})" if one.cells else ""
            lines.append(f"- {one.text}{cells}")
        parts += ["## Warnings", "\n".join(lines)]
    parts += ["## What this is of", "\n".join(f"- {name}: {text}" for name, text in page["facts"].items())]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"

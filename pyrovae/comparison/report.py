"""The folder that a comparison writes: tables, figures, and one page with all of it."""

import base64
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..files import replacing
from . import table as tables
from .figures import FIGURES
from .plan import Cell
from .results import Result, nested, same_images
from .table import Row

_TOLD = 5  # differences that a sentence holds
_NUMBER = re.compile(r"(?<![\w.,-])[-−+]?\d+(?:,\d{3})*(?:\.\d+)?")  # no part of a name


def write_report(
    out: Path,
    results: Sequence[Result],
    *,
    title: str = "Comparison",
    lead: Sequence[str] = (),
    failures: Sequence[Any] = (),
    unreadable: Sequence[str] = (),
    published: Mapping[str, Mapping[str, float | str]] = {},
    settings: str = "",
    run: Mapping[str, Any] = {},
    split: str | None = None,
) -> None:
    """Writes `report.html`, `table.{md,csv,tex}`, `values.csv` and `figures/`, each file whole or not at all.

    Args:
        out: Folder.
        results: Evaluated cells; schemes are compared with that of the first.
        title: Of the page.
        lead: Sentences before the result, what a search has found say.
        failures: Cells that have no result: `cell`, exit `code`, `message` and `log`.
        unreadable: What `read_results` says of the others.
        published: Scheme -> published numbers and their source.
        settings, run: What was run, as text, and how: `engine`, `jobs` and the like.
        split: What is compared; by default the main split of the first result.

    Raises:
        OSError: A file cannot be written.
    """
    split = split or (results[0].main if results else "test")
    table = tables.rows(results, split)
    pictures, broken = _draw(out / "figures", table, split)
    more, same = tables.without_constants(tables.more_table(table))
    runs, about = tables.without_constants(tables.runs_table(table, out))
    page = {
        "title": title,
        "headline": " ".join([*lead, _headline(table, split)]),
        "failed": [*(f"{f.cell.name}: exit code {f.code}: {f.message} (log: {f.log})" for f in failures), *unreadable],
        "pictures": pictures,
        "levels": tables.levels_table(table),
        "more": more,
        "same": _listed(same),
        "published": tables.published_table(published, results, split),
        "warned": [*((text, list[Cell]()) for text in broken), *_warnings(results, table, split)],
        "facts": _facts(results, _listed(about), run, split),
        "runs": runs,
        "jobs": run.get("jobs") or 1,
        "settings": settings,
    }
    for name, rows in (("table.csv", tables.short_csv(table)), ("values.csv", tables.long_csv(results))):
        with _written(out / name) as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    for name in ("table.tex", "table.md", "report.html"):
        templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape="html" in name, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        templates.filters["latex"] = tables.latex
        with _written(out / name) as file:
            file.write(templates.get_template(f"{name}.j2").render(page))


@contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        yield file


def _draw(folder: Path, table: Sequence[Row], split: str) -> tuple[dict[str, str], list[str]]:
    """The figures as PNG, in base 64, and a line for each that cannot be drawn: it takes no other down."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, broken = dict[str, str](), list[str]()
    for name, draw in FIGURES.items():
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)  # no picture of what is no longer compared
        try:
            if figure := draw(table, split) if table else None:
                with replacing(path) as part:
                    figure.savefig(part, dpi=150, format="png")
                pictures[name] = base64.b64encode(path.read_bytes()).decode()
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            broken.append(f"figures/{name}.png was not drawn ({type(error).__name__}: {error}).")
    return pictures, broken


def _headline(table: Sequence[Row], split: str) -> str:
    """The result in one sentence, and of what it holds."""
    told = sorted(((row, row.difference) for row in table if row.difference), key=lambda found: -found[1].mean)
    if len(table) == 1 and "elbo" in table[0].estimates:
        elbo = tables.entry(table[0].estimates["elbo"])
        return f"{table[0].scheme} has an ELBO of {elbo} nats at λ_K ({split}); no other scheme is compared with it."
    if not told:
        return f"Of {len(table)} scheme{'s' if len(table) != 1 else ''}, none can be subtracted from the first."
    inputs = table[0].group[0].values.get(f"{split}/inputs")
    noun = "images" if inputs is not None and inputs.ndim == 4 else "datapoints"
    first, parts = table[0].scheme, list[str]()
    for row, difference in told[:_TOLD]:
        (low, high), size = difference.interval, f"{row.told.text[1:]} ± {row.told.error} nats"
        unclear = f"cannot be told from {first} ({row.told} nats)"
        verdict = f"gains {size} over {first}" if low > 0 else f"loses {size} to {first}" if high < 0 else unclear
        parts.append(f"{row.scheme} {verdict}")
    parts += [f"{len(told) - _TOLD} more are in the table"] if len(told) > _TOLD else []
    nums, seeds = [difference.num_images for _, difference in told], min(d.num_seeds for _, d in told)
    num = " to ".join(map(str, sorted({min(nums), max(nums)})))
    end = f" and {seeds} seeds." if seeds > 1 else ": with one seed, this is about these runs, not these schemes."
    return f"On {num} {split} {noun}, by ELBO at λ_K: {'; '.join(parts)}. ± is one standard error over {noun}{end}"


def _warnings(results: Sequence[Result], table: Sequence[Row], split: str) -> list[tuple[str, list[Cell]]]:
    """Texts, and the cells that have them: what cells share, numbers aside, once."""
    found = list[tuple[str, Cell]]()
    for result in results[1:]:
        if not (result.sketch(split) and results[0].sketch(split)):
            text = f"This evaluation does not say which {split} data it is of, so it is not subtracted; evaluate again."
            found.append((text, result.cell))
        elif not same_images(results[0], result, split):
            found.append(("This is of other data than the first result, and not subtracted from it.", result.cell))
        if result.evaluation.get("settings") != results[0].evaluation.get("settings"):
            found.append(("This was evaluated with other settings than the first result.", result.cell))
    for row in table:
        for part, what in ((row, "means"), (row.difference, "difference")):
            if part and part.num_left_out:
                text = f"{part.num_left_out} {split} datapoints are left out of the {what} of this scheme"
                found += [(f"{text}: they are not finite.", result.cell) for result in row.group]
    for result in results:
        failed = nested(result.evaluation, "failed") or {}
        texts = [*(result.evaluation.get("warnings") or []), *(f"{n} was not measured: {r}" for n, r in failed.items())]
        found += [(text, result.cell) for text in texts]
    groups: dict[str, list[tuple[str, Cell]]] = {}
    for text, cell in found:
        groups.setdefault(_NUMBER.sub("#", text), []).append((text, cell))
    return [(_common([text for text, _ in group]), [cell for _, cell in group]) for group in groups.values()]


def _common(texts: Sequence[str]) -> str:
    """Texts that differ in their numbers, as one.

    >>> _common(["k̂ of 3 of 50 is high", "k̂ of 12 of 50 is high"])
    'k̂ of 3 to 12 of 50 is high'
    """
    columns = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    ranges = (sorted({*column}, key=lambda text: float(text.replace("−", "-").replace(",", ""))) for column in columns)
    return _NUMBER.sub(lambda _: " to ".join(dict.fromkeys((part := next(ranges))[:: max(1, len(part) - 1)])), texts[0])


def _facts(results: Sequence[Result], about: str, run: Mapping[str, Any], split: str) -> dict[str, str]:
    """Of what, with what, and where it was run."""

    def told(file: str, *keys: str) -> str:
        values = [nested(getattr(result, file), *keys) for result in results]
        texts = [_listed(value) if isinstance(value, Mapping) else str(value) for value in values if value is not None]
        return "; ".join(dict.fromkeys(texts))

    facts = {
        "data": told("evaluation", "dataset"),
        f"{split} datapoints measured": told("evaluation", "splits", split, "num_data"),
        "training datapoints": told("summary", "num_train"),
        "the same for all": about,
        "seeds": ", ".join(dict.fromkeys(str(result.cell.seed) for result in results)),
        "evaluation": told("evaluation", "settings"),
        "versions": told("evaluation", "versions"),
        "commit": told("summary", "commit"),
        "hardware": told("summary", "machine"),
        "run by": _listed(run),
    }
    return {name: text for name, text in facts.items() if text}


def _listed(values: Mapping[str, Any]) -> str:
    texts = {name.replace("_", " "): ", ".join(map(str, v)) if isinstance(v, list) else v for name, v in values.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items() if text not in (None, "", {}))

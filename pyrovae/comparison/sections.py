"""What a report says, before it is Markdown or HTML."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .difference import paired_difference
from .engines import Failure
from .measures import Estimate
from .published import HEADER, published_lines
from .results import Result, by_scheme
from .table import cells_of, estimate_text, headings, number, rows

_WORDS = (
    "λ₀ is where inference starts, the encoder's output say, and λ_K where refinement ends. IWAE, from many draws, is "
    "the closest to log p(x) of these bounds. The approximation gap is what the best q of the family misses; the "
    "amortization gap what λ₀ misses of that best q, of which refinement recovers some."
)
_COMPARED = {"elbo": "ELBO at λ_K", "iwae": "IWAE"}


@dataclass(frozen=True)
class Section:
    """A heading, and a table or a list below it.

    Attributes:
        heading: Its title.
        header: Of the table's columns.
        lines: Of the table.
        items: Of the list.
        note: A paragraph behind them.
    """

    heading: str
    header: Sequence[str] = ()
    lines: Sequence[Sequence[str]] = ()
    items: Sequence[str] = ()
    note: str = ""


def sections(
    results: Sequence[Result],
    failures: Sequence[Failure],
    published: Mapping[str, Mapping[str, float | str]],
) -> list[Section]:
    """Those that have something to say."""
    columns = headings(results)
    lines = [cells_of(row, columns) for row in rows(results)]
    failed = [f"{f.cell.name}: exit code {f.code}: {f.message} (log: {f.log})" for f in failures]
    found = [
        Section("Failed", items=failed),
        Section("Schemes on the test images", list(columns.values()), lines, note=f"{_WORDS} {_note(results)}"),
        _differences(results),
        Section("Published and obtained", HEADER, published_lines(published, results)),
        Section("Warnings", items=_warnings(results)),
    ]
    return [section for section in found if section.lines or section.items]


def _differences(results: Sequence[Result]) -> Section:
    """Each scheme minus the first, on the images that both were evaluated on."""
    groups = by_scheme(results)
    first = next(iter(groups), "")
    header = ["scheme", "measure", f"minus that of {first} ± SE over images", "SE over seeds", "images", "seeds"]
    lines = []
    for scheme, group in list(groups.items())[1:]:
        for name, what in _COMPARED.items():
            found = paired_difference(groups[first], group, name)
            if found is None:
                continue
            over_seeds = "–" if math.isnan(found.se_over_seeds) else number(found.se_over_seeds)
            value = estimate_text(Estimate(found.mean, found.se), "+")
            lines.append([scheme, what, value, over_seeds, str(found.num_images), str(found.num_seeds)])
    return Section("Differences on the same images", header, lines)


def _note(results: Sequence[Result]) -> str:
    data = sorted({str(result.evaluation.get("dataset")) for result in results})
    return (
        f"Data: {'; '.join(data)}. Bounds and gaps in nats an image. ± is one standard error: over seeds where a "
        "scheme has several, else over images. Differences are taken image by image and averaged over seeds; their "
        "standard error is over images, and that over seeds stands beside it."
    )


def _warnings(results: Sequence[Result]) -> list[str]:
    lines = [f"{r.cell.name}: {text}" for r in results for text in r.evaluation.get("warnings") or []]
    if len({result.data for result in results}) > 1:
        lines.insert(0, "These runs are of different data or splits; only those of the same ones are subtracted.")
    if len({str(result.evaluation.get("settings")) for result in results}) > 1:
        lines.insert(0, "These runs were evaluated with different settings; see evaluation.json of each.")
    return lines

"""The folder that a comparison writes: tables, figures, and one page with all of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .curves import elbo_against_seconds, elbo_against_steps
from .engines import Failure
from .gap_bars import gap_bars
from .heat_map import steps_heat_map
from .page import Page
from .pictures import reconstructions
from .results import Result
from .sections import Section, sections
from .table import markdown, to_csv

_FIGURES = {
    "gaps": gap_bars,
    "elbo_against_steps": elbo_against_steps,
    "elbo_against_seconds": elbo_against_seconds,
    "steps_heat_map": steps_heat_map,
    "reconstructions": reconstructions,
}


def write_report(
    out: Path,
    results: Sequence[Result],
    *,
    title: str = "Comparison",
    failures: Sequence[Failure] = (),
    published: Mapping[str, Mapping[str, float | str]] = {},
    settings: str = "",
    run: Mapping[str, Any] = {},
) -> None:
    """Writes `table.md`, `table.csv`, `report.html` and `figures/`.

    Args:
        out: Folder.
        results: Evaluated cells; schemes are compared with that of the first.
        title: Of the page.
        failures: Cells that have no result.
        published: Scheme -> published numbers and their source.
        settings: What was run, as text.
        run: Where and how it ran: engine, jobs, ...
    """
    found = sections(results, failures, published)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    pictures: dict[str, bytes] = {}
    for name, draw in _FIGURES.items():
        path = out / "figures" / f"{name}.png"
        path.unlink(missing_ok=True)  # no picture of what is no longer compared
        figure = draw(results)
        if figure is not None:
            figure.savefig(path, dpi=150)
            pictures[name] = path.read_bytes()
    (out / "table.csv").write_text(to_csv(results), encoding="utf-8")
    (out / "table.md").write_text(_markdown(title, found), encoding="utf-8")
    (out / "report.html").write_text(_html(title, found, pictures, settings), encoding="utf-8")


def _markdown(title: str, found: Sequence[Section]) -> str:
    parts = [f"# {title}"]
    for section in found:
        parts.append(f"## {section.heading}")
        parts += [markdown(section.header, section.lines)] if section.lines else []
        parts += ["\n".join(f"- {text}" for text in section.items)] if section.items else []
        parts += [section.note] if section.note else []
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _html(title: str, found: Sequence[Section], pictures: Mapping[str, bytes], settings: str) -> str:
    page = Page(title)
    for section in found:
        page.heading(section.heading)
        if section.lines:
            page.table(section.header, section.lines)
        if section.items:
            page.items(section.items)
        if section.note:
            page.note(section.note)
    if pictures:
        page.heading("Figures")
        page.pictures(pictures)
    if settings:
        page.heading("What was run")
        page.code(settings)
    return str(page)

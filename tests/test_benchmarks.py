"""Benchmarks are where documents say, and the comparisons among them can be run."""

import re
from pathlib import Path

import pytest

from pyrovae.comparison import load_settings, plan, schemes_of
from pyrovae.config import build_model, fit_arguments

ROOT = Path(__file__).parent.parent
HOME = ROOT / "benchmarks"
FILES = sorted(HOME.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_cell_can_be_built(path, tmp_path):
    assert path.read_text().startswith(f"# python scripts/compare.py --config {path.relative_to(ROOT)} dataset.root=")
    settings, overrides = load_settings(path)
    cells = plan(settings, schemes_of(settings, overrides, path), tmp_path)
    for cell in cells[: len(cells) // len(settings.seeds)]:
        model, guide = build_model(cell.config, (1, 28, 28))
        assert sum(p.numel() for part in (model, guide) for p in part.parameters()) > 0
        assert fit_arguments(cell.config)["epochs"] == cell.config.train.epochs


def test_documents_name_benchmarks_that_are_there():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), HOME / "README.md"]
    named = {
        name
        for page in pages
        for name in re.findall(r"python (?:scripts/compare.py --config )?(benchmarks/[\w/]+\.\w+)", page.read_text())
    }
    assert {name for name in named if not (ROOT / name).is_file()} == set()
    told = (HOME / "README.md").read_text()
    for path in [*FILES, *HOME.glob("*.py")]:
        assert path.name == "timing.py" or path.relative_to(ROOT).as_posix() in told, path

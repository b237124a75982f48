"""Imports run one way: a module may import what stands left of it. A start imports little."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pyrovae
from pyrovae.cli.main import COMMANDS

PACKAGE = Path(pyrovae.__file__).parent
ORDER = [
    "validation", "files", "capture", "distributions", "nets", "models", "families", "inference", "guides", "training",
    "evaluation", "config", "runs", "testing", "inspection", "comparison", "cli", "scripts",
]  # fmt: skip
ABOVE_DATA = {"config", "runs", "inspection", "comparison", "cli"}


def imported(file: Path) -> set[str]:
    """The parts of the package that a file imports, at its top or within functions."""
    here = file.relative_to(PACKAGE).parent.parts
    parts = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
            base = [part for part in base if part]
            parts |= {base[0]} if base else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyrovae"):
            parts.add((node.module + ".").split(".")[1] or "pyrovae")
        elif isinstance(node, ast.Import):
            parts |= {alias.name for alias in node.names if alias.name.startswith("pyrovae")}
    return parts


FILES = [f for f in PACKAGE.rglob("*.py") if f != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_arrow_runs_back(file):
    own = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    others = imported(file) - {own, "__version__"}
    if own == "data":
        assert not others, "data stands apart"
        return
    if "data" in others:
        assert own in ABOVE_DATA, "only those who read configurations know data"
        others.discard("data")
    backward = {name for name in others if ORDER.index(name) >= ORDER.index(own)}
    assert not backward, f"{own} may not import {backward}"


def test_the_test_sees_an_arrow_that_runs_back(tmp_path, monkeypatch):
    monkeypatch.setattr("test_imports.PACKAGE", tmp_path)
    (tmp_path / "nets").mkdir()
    bad = tmp_path / "nets" / "bad.py"
    for line in ("from ..guides import Guide", "from .. import training", "def f():\n    from ..config import Config"):
        bad.write_text(line)
        with pytest.raises(AssertionError):
            test_no_arrow_runs_back(bad)


def test_every_part_has_a_place():
    parts = {f.relative_to(PACKAGE).parts[0].removesuffix(".py") for f in FILES}
    assert parts <= {*ORDER, "data"}


HEAVY = [
    "pytorch_lightning", "lightning", "torchmetrics", "torchvision", "tensorboard", "matplotlib", "scipy", "sklearn",
    "skimage", "mlxtend", "h5py", "pandas", "yaml", "ray", "submitit", "optuna", "datasets", "numpyro", "jax",
    "sympy", "torch._dynamo", "torch._inductor",
]  # fmt: skip


def test_a_start_loads_nothing_that_it_does_not_use():
    """Lightning takes two seconds, of which scipy, matplotlib and torchvision are one; a page of help takes none."""
    code = f"""
import contextlib, io, json, sys
import pyro, pyrovae
found = {{"import": [name for name in {HEAVY} if name in sys.modules]}}
from pyrovae.cli.main import main
for words in (["--help"], *([name, "--help"] for name in {[*COMMANDS]})):
    with contextlib.redirect_stdout(io.StringIO()) as page, contextlib.suppress(SystemExit):
        main(words)
    assert page.getvalue().startswith("usage:"), words
    found[" ".join(words)] = [name for name in {HEAVY} if name in sys.modules]
found["module_local_params"] = pyro.settings.get("module_local_params")
print(json.dumps(found))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.pop("module_local_params") is True  # before any model is made
    assert len(found) == 2 + len(COMMANDS)
    assert {name: heavy for name, heavy in found.items() if heavy} == {}

"""Examples run, on little data."""

import runpy
import sys
from pathlib import Path

import pyrovae as pv

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_swap_guides_compares_every_guide(monkeypatch, capsys):
    small = pv.data.MNIST(source="embedded")
    few = pv.data.Dataset(small.name, small.source, small.train[:256], small.val[:64], small.test[:64], "dynamic")
    monkeypatch.setattr(pv.data, "MNIST", lambda: few)
    monkeypatch.setattr(sys, "argv", ["swap_guides.py", "--epochs", "1", "--num-data", "10"])
    runpy.run_path(str(EXAMPLES / "swap_guides.py"), run_name="__main__")
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    scores = {name.strip(): [float(cell) for cell in cells] for name, *cells in rows}
    assert len(scores) >= 10
    assert scores["amortized"][0] == scores["amortized"][1]
    assert scores["SVI, no encoder"][1] > scores["SVI, no encoder"][0]

"""What the documents say is run."""

import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule

import pyrovae as pv
from pyrovae.config import COMPONENTS
from pyrovae.testing import check_guide

ROOT = Path(__file__).parent.parent


def blocks(name: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def test_readme_swaps_a_guide_in_python(monkeypatch, capsys):
    (code,) = blocks("README.md")
    assert len(code.split("for scheme")[1].splitlines()) <= 10
    small = pv.data.MNIST(source="embedded")
    few = pv.data.Dataset(small.name, small.source, small.train[:256], small.val[:64], small.test[:64], "dynamic")
    monkeypatch.setattr(pv.data, "MNIST", lambda: few)
    exec(code.replace("epochs=5", "epochs=1, progress=False"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("amortized -")
    assert lines[1].startswith("semi-amortized -")


def test_readme_swaps_a_guide_in_yaml(tmp_path):
    from pyrovae.config import load_config

    (text,) = blocks("README.md", "yaml")
    path = tmp_path / "readme.yaml"
    path.write_text(text)
    assert load_config(path).guide.type == "semi_amortized"
    assert load_config(path, ["guide=amortized"]).guide.type == "amortized"


def test_readme_tells_of_every_component():
    text = (ROOT / "README.md").read_text()
    for kind, names in COMPONENTS.items():
        for name, make in names.items():
            assert make.__name__ in text, f"{kind} {name}"
            assert name in text, f"{kind} {name}"


def test_readme_starts_with_two_commands():
    block = (ROOT / "README.md").read_text().split("```")[1].strip().splitlines()
    assert len(block) == 2
    assert block[0] == "pip install -e . && python scripts/train.py --config configs/ivae.yaml"
    assert block[1] == "pip install -e '.[test]' && pytest"


def test_extending_a_guide_in_30_lines():
    definition, use, *_ = blocks("docs/extending.md")
    assert len(definition.split("class ")[1].splitlines()) <= 30
    namespace: dict = {}
    exec(definition, namespace)
    small = pv.data.MNIST(source="embedded")
    few = pv.data.Dataset(small.name, small.source, small.train[:256], small.val[:64], small.test[:64], "dynamic")
    exec(use.replace('pv.data.MNIST(source="embedded")', "few"), {**namespace, "pv": pv, "few": few})
    model = pv.models.mlp((1, 6, 5), 3, widths=(8,))
    family = pv.DiagonalNormal(3)
    guide = namespace["BestOfGuide"](model, family, pv.nets.MLP((1, 6, 5), (6,), widths=(8,)))
    check_guide(model, guide, (torch.rand(7, 1, 6, 5) < 0.4).float())


def test_extending_refines_a_model_of_ones_own():
    namespace: dict = {"torch": torch, "pv": pv}
    exec(blocks("docs/extending.md")[2].replace('pv.engine("compiled")', 'pv.engine("eager")'), namespace)
    assert namespace["gain"].mean() > 0.1


def test_extending_several_latent_sites():
    namespace: dict = {"torch": torch, "pv": pv, "pyro": pyro, "dist": dist, "PyroModule": PyroModule}
    model, use = blocks("docs/extending.md")[3:5]
    exec(model, namespace)
    exec(use, namespace)
    assert namespace["losses"][0] - namespace["losses"][-1] > 15
    assert namespace["correlation"] > 0.8
    exec(use.replace('"semi-amortized"', '"amortized"').replace("range(150)", "range(30)"), namespace)
    assert isinstance(namespace["guide"], pv.AmortizedGuide)
    assert namespace["losses"][0] - namespace["losses"][-1] > 10


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target


def test_extending_data():
    *_, tensors, rows = blocks("docs/extending.md")
    namespace: dict = {"torch": torch, "pv": pv}
    exec(tensors + rows, namespace)
    data, model, gratings = (namespace[name] for name in ("data", "model", "gratings"))
    family = pv.DiagonalNormal(5)
    guide = pv.AmortizedGuide(family, pv.nets.MLP(data.x_shape, (family.num_params,), widths=(8,)))
    pv.fit(model, guide, data, epochs=1, progress=False)
    x = torch.cat(list(gratings.batches("train", 1000)))
    assert x.shape == (4000, 1, 16, 16)
    assert 0 <= x.min() < 0.05
    assert 0.95 < x.max() <= 1
    first, again, second = (next(iter(gratings.batches("train", 7, position=lambda e=e: (e, 0)))) for e in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first.sort(0).values, second.sort(0).values)

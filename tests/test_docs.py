"""What the documents say is run."""

import ast
import importlib
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

import pyrovae as pv
from pyrovae.config import COMPONENTS, build_data, build_model, check, fit_arguments, load_config
from pyrovae.config.components import PRESETS

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(name: str, language: str = "python") -> list[str]:
    return [code for kind, code in FENCE.findall((ROOT / name).read_text()) if kind == language]


def sections(name: str) -> dict[str, list[tuple[str, str]]]:
    """The blocks of each section, (language, code), by its heading; those before the first by ''."""
    parts = re.split(r"^## (.*)$", (ROOT / name).read_text(), flags=re.MULTILINE)
    return {title: FENCE.findall(text) for title, text in zip(["", *parts[1::2]], parts[::2], strict=True)}


def lines_of(code: str, first: str, last: str | None = None) -> int:
    """How many lines there are from one that starts so to the end of the block, or to another."""
    text = code[code.index(first) :]
    return len((text[: text.index(last)] if last else text).strip().splitlines())


def test_readme_starts_with_two_commands():
    block = (ROOT / "README.md").read_text().split("```")[1].strip().splitlines()
    assert block == [
        "pip install -e . && python scripts/train.py --config configs/ivae.yaml",
        "pip install -e '.[test]' && pytest",
    ]


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_readme_swaps_a_guide_in_python(monkeypatch, capsys):
    code, *_ = blocks("README.md")
    assert lines_of(code, "for scheme") <= 10
    few = few_digits()
    monkeypatch.setattr(pv.data, "MNIST", lambda: few)
    exec(code.replace("epochs=5", "epochs=1, progress=False"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("amortized -")
    assert lines[1].startswith("semi-amortized -")


def test_readme_swaps_a_guide_in_yaml(tmp_path):
    (text,) = blocks("README.md", "yaml")
    path = tmp_path / "readme.yaml"
    path.write_text(text)
    assert load_config(path).guide.type == "semi_amortized"
    assert load_config(path, ["guide=amortized"]).guide.type == "amortized"


def test_components_tells_of_every_one():
    text = (ROOT / "docs" / "components.md").read_text()
    for kind, names in COMPONENTS.items():
        for name, make in names.items():
            assert make.__name__ in text, f"{kind} {name}"
            assert name in text, f"{kind} {name}"
    for name in PRESETS:
        assert f"`{name}`" in text, name


def test_every_config_is_in_the_table():
    text = (ROOT / "docs" / "components.md").read_text()
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"`{path.relative_to(ROOT / 'configs').with_suffix('')}`" in text, path


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    text = path.read_text()
    for target, place in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        if target.startswith("http"):
            continue
        file = path.parent / target if target else path
        assert file.exists(), target
        if place and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            names = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert place in names, f"{target}#{place}"


EXTENDING = sections("docs/extending.md")


@cache
def few_digits() -> pv.data.Dataset:
    digits = pv.data.MNIST(source="embedded")
    return pv.data.Dataset(digits.name, digits.source, digits.train[:256], digits.val[:64], digits.test[:64], "dynamic")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a section of `docs/extending.md` in a folder of its own, and returns its names."""
    few = few_digits()
    monkeypatch.setattr(pv.data, "MNIST", lambda source="auto": few)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    def run(title: str) -> dict:
        names: dict = {}
        for kind, code in [*EXTENDING[""], *EXTENDING[title]]:
            file = re.match(r"# (\w+\.\w+)\n", code)
            if file:
                (tmp_path / file[1]).write_text(code)
            elif kind == "python":
                exec(code.replace('pv.engine("compiled")', 'pv.engine("eager")'), names)
            else:
                script, *args = shlex.split(code.removeprefix("python scripts/"))
                command = importlib.import_module(f"pyrovae.cli.{script.removesuffix('.py')}")
                assert command.main([*args, "--quiet"]) == 0
        return names

    yield run
    sys.modules.pop("my_models", None)


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]), ids=lambda p: p.name)
def test_files_that_are_named_are_there(path):
    folders = {file.parent.name for file in ROOT.glob("pyrovae/*/*.py")} - {
        "data",
        "runs",
    }  # these are users' folders too
    parts = "|".join(sorted(folders))
    text = path.read_text()
    names = re.findall(r"`([a-z_]+/[a-z_/]+\.(?:py|yaml))`", text)
    for folder, files in re.findall(rf"`((?:{parts})/)(\w+|{{[\w,]+}})`", text):  # `part/{one,two}`, without .py
        names += [f"{folder}{file}.py" for file in files.strip("{}").split(",")]
    for name in names:
        assert any((folder / name).exists() for folder in (ROOT, ROOT / "pyrovae")), name


def test_evaluation_in_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = pv.data.MNIST(source="embedded")
    model, family = pv.models.mlp(data.x_shape, 3, widths=(8,)), pv.DiagonalNormal(3)
    guide = pv.AmortizedGuide(family, pv.nets.MLP(data.x_shape, (6,), widths=(8,)))
    pv.fit(model, guide, data, epochs=1, batch_size=500, run_dir="runs/ivae/version_0", progress=False)
    few, names = "num_data=10, num_annealed=0, num_simulated=0, max_steps=20", {}
    for code in blocks("docs/evaluation.md"):
        exec(code.replace("num_data=100", few), names)
    assert names["result"]["splits"]["test"]["gap"]["amortization"]["mean"] > 0
    assert "'approximation'" in capsys.readouterr().out


def test_extending_a_guide(run):
    names = run("A guide in 30 lines")
    code = [code for _, code in EXTENDING["A guide in 30 lines"]]
    assert lines_of(code[0], "class BestOf") <= 30
    assert names["result"]["val/elbo"] < 0
    assert lines_of(code[4], "class MetaSGD", "meta =") <= 40
    assert (names["meta"].sizes != names["meta"].lr).any()  # learned
    loss = names["taught"].infer(names["data"].test[:5].float()).teaching
    assert [one.shape for one in loss] == [(5,)]


def test_extending_names_every_field_and_argument():
    text = (ROOT / "docs" / "extending.md").read_text()
    contract = text[text.index("### The contract") : text.index("## A model of your own")]
    for name in pv.Inferred._fields:
        assert f"`{name}`" in contract, name
    for name in ("x", "beta", "record", "start", "prior"):
        assert f"| `{name}` |" in contract, name


def test_extending_a_model(run):
    assert run("A model of your own")["gain"].mean() > 0.1


def test_extending_yaml(run):
    names = run("Your classes in YAML")
    assert names["posterior"].mean.shape == (10, 3)
    assert type(names["again"].model) is names["Neurons"]


def test_extending_several_latent_sites(run):
    names = run("More than one latent site")
    assert names["correlation"] > 0.8
    assert names["result"]["val/refinement_gain"] > 0


def test_extending_time(run):
    names = run("Time: a latent of shape (T, D)")
    assert names["posterior"].event_shape == (20, 2)
    untrained = names["Dynamics"](20, 8)
    prior = torch.zeros(50, names["family"].num_params)
    before = pv.elbo_terms(untrained, names["family"], names["counts"][250:], prior, num_particles=10).elbo().mean()
    assert names["result"]["test/elbo"] > before + 10
    assert names["result"]["test/refinement_gain"] > 0


def test_extending_a_family_without_density(run):
    names = run("A family with a KL and no density")
    code = EXTENDING["A family with a KL and no density"][0][1]
    assert lines_of(code, "class RelaxedPoisson") <= 45
    assert names["family"].temperature == pytest.approx(0.1)
    assert names["result"]["val/refinement_gain"] > 0


def test_extending_a_likelihood(run):
    names = run("A likelihood")
    assert names["model"].decode(torch.zeros(3, 5)).mean.shape == (3, 40)


def test_extending_objectives_refiners_carry(run, monkeypatch):
    """One after another: each goes on with the last one's model."""
    together = [
        block
        for title in ("An objective, and schedules", "A refiner", "Carry λ and prior from frame to frame")
        for block in EXTENDING[title]
    ]
    monkeypatch.setitem(EXTENDING, "all", together)
    names = run("all")
    assert names["Capacity"]().capacity == 10
    assert abs(names["result"]["val/kl"] - 10) < 3
    assert len(names["elbos"]) == 6
    start = torch.full_like(names["carried"], torch.nan)
    x = names["frames"][0]
    torch.manual_seed(0)
    from_nowhere = names["guide"].infer(x, start=start).params
    torch.manual_seed(0)
    assert torch.equal(from_nowhere, names["guide"].infer(x).params)


def test_extending_parts_are_names_in_yaml(run, tmp_path):
    """Every class of the page, in a module, and built from a configuration."""
    nodes = [
        node
        for section in EXTENDING.values()
        for kind, code in section
        if kind == "python" and not code.startswith("# my_models")
        for node in ast.parse(code).body
        if isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef)
        and ast.unparse(node) != "from my_models import Neurons"
    ]
    made = "def bits(*, num: int = 60) -> pv.data.Dataset:\n    x = torch.rand(num, 12).round()\n"
    made += "    return pv.data.Dataset('bits', 'drawn', x[:40], x[40:50], x[50:])"
    (tmp_path / "my_models.py").write_text("\n\n".join([*map(ast.unparse, nodes), made]))
    training = {"objective": {"type": "my_models:Capacity", "capacity": 5.0}}
    training["schedules"] = {"objective.capacity": {"type": "linear", "epochs": 10}}
    rprop = {"type": "my_models:RpropRefiner", "num_steps": 2, "objective": {"type": "my_models:Capacity"}}
    counts = {"type": "my_models:PoissonFamily", "temperature": 0.2}
    meta = {"type": "my_models:MetaSGDGuide", "num_steps": 2, "objective": "analytic_elbo"}
    cases = [
        ({}, meta, {}),
        ({"likelihood": {"type": "my_models:NegativeBinomial", "r": 3.0}}, {"type": "my_models:BestOfGuide"}, {}),
        ({}, {"type": "semi_amortized", "refiner": rprop}, training),
        (
            {"prior": "my_models:PoissonPrior"},
            {"type": "semi_amortized", "family": counts, "refiner": {"objective": "analytic_elbo"}},
            {
                "objective": "analytic_elbo",
                "schedules": {"family.temperature": {"type": "linear", "start": 5, "end": 1}},
            },
        ),
    ]
    for i, (model, guide, train) in enumerate(cases):
        values = {"dataset": "my_models:bits", "model": {"z_dim": 3, **model}, "guide": guide}
        config = check({**values, "train": {"epochs": 1, **train}})
        data = build_data(config)
        made = build_model(config, data.x_shape)
        assert pv.fit(*made, data, run_dir=f"run{i}", progress=False, **fit_arguments(config))["val/elbo"] < 0
        trained = pv.load(f"run{i}", allow=["my_models"])
        assert type(trained.guide) is type(made[1])
        assert trained.config.guide.type == config.guide.type


def test_extending_data(run):
    names = run("Data of your own")
    data, model, gratings = (names[name] for name in ("data", "model", "gratings"))
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


def test_extending_leaves_no_section_out():
    tested = Path(__file__).read_text()
    assert [title for title in EXTENDING if title and f'"{title}"' not in tested] == []

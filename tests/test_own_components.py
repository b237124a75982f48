"""Components of one's own in YAML, `module:Class`, and that a run's folder imports none without the user's word."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import tiny_images

import pyrovae as pv
from pyrovae.cli import compare, embed, evaluate, sample, train
from pyrovae.config import ConfigError, build_data, build_model, check
from pyrovae.training import CheckpointError

MINE = '''
import pyro, torch
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import nn

import pyrovae as pv
from pyrovae.inference import Objective


class Guide(pv.AmortizedGuide):
    def __init__(self, family, encoder, *, jitter: float = 0.1, refiner: pv.Refiner = pv.SVIRefiner(num_steps=3)):
        super().__init__(family, encoder)
        self.jitter, self.refiner = jitter, refiner


class Net(nn.Module):
    def __init__(self, in_shape, out_shape, *, width: int = 4):
        super().__init__()
        self.width = width
        self.net = pv.nets.MLP(in_shape, out_shape, widths=(width,))

    def forward(self, x):
        return self.net(x)


class Neurons(PyroModule):
    """No prior, decoder or likelihood; a gain and a vector."""

    def __init__(self, x_shape, *, z_dim: int = 2):
        super().__init__()
        self.x_shape, self.z_dim = x_shape, z_dim
        self.readout = nn.Linear(z_dim, x_shape[0])

    def forward(self, x):
        with pyro.plate("data", x.shape[0]):
            gain = pyro.sample("gain", dist.Gamma(4.0, 4.0))
            z = pyro.sample("z", dist.Normal(torch.zeros(self.z_dim), 1.0).to_event(1))
            rate = gain[..., None] * nn.functional.softplus(self.readout(z))
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)


def counts(*, num: int = 60) -> pv.data.Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(2 * torch.rand(num, 8, generator=generator), generator=generator)
    return pv.data.Dataset("counts", "drawn", x[: num // 2], x[num // 2 : -10], x[-10:])


class Many(PyroModule):
    def __init__(self, readout):
        super().__init__()
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with a module of the user's, in which commands are called."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("mine", None)


def test_every_block_takes_one(mine):
    config = check(
        {
            "dataset": {"name": "mine:counts", "num": 40},
            "model": {"decoder": "mine:Net", "z_dim": 3, "likelihood": "poisson"},
            "guide": {"type": "mine:Guide", "refiner": {"num_steps": 7}},
        }
    )
    assert config.own_modules == ["mine"]
    assert (config.model.decoder.width, config.guide.jitter, config.guide.refiner.num_steps) == (4, 0.1, 7)
    data = build_data(config)
    model, guide = build_model(config, data.x_shape)
    assert (type(model.decoder).__name__, type(guide).__name__) == ("Net", "Guide")
    assert guide.refiner.num_steps == 7
    resolved = config.model_dump(mode="json")
    assert check(yaml.safe_load(yaml.safe_dump(resolved))).model_dump(mode="json") == resolved


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"guide": {"type": "mine:Guide", "jiter": 1}}, "guide.jiter: unknown key for mine:Guide (value 1); did you mean jitter?"),
        ({"guide": {"type": "mine:Guide", "jitter": "x"}}, "guide.jitter: must be a number, got 'x'"),
        ({"guide": {"type": "mine:Guide", "refiner": {"num_steps": 0}}}, "guide.refiner.num_steps: must be >"),
        ({"guide": "mine:Giude"}, "guide.type: 'mine:Giude': mine has no Giude; did you mean Guide?"),
        ({"guide": "mine:Net"}, "guide.type: 'mine:Net' is no Guide; "),
        ({"dataset": "mine:Net"}, "dataset.name: 'mine:Net' is no Dataset; "),
        ({"guide": "yours:Guide"}, "guide.type: 'yours:Guide' cannot be imported (ModuleNotFoundError: No module named 'yours')"),
        ({"guide": "pyrovae.guides:RefinedGuide"}, "guide.type: 'pyrovae.guides:RefinedGuide' is abstract; it has yet to write initial"),
        ({"model": "mine:Many"}, "model.type: 'mine:Many' takes readout by position; make it a keyword"),
        ({"model": {"type": "mine:Neurons", "decoder": "mlp"}}, "model.decoder: unknown key for mine:Neurons (value 'mlp'); "),
    ],
)  # fmt: skip
def test_errors_are_those_of_the_librarys_own(mine, values, line):
    with pytest.raises(ConfigError) as error:
        check(values)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "family", ["joint", "full_normal", {"type": "joint", "base": {"type": "low_rank_normal", "rank": 1}}]
)
def test_a_model_without_prior_decoder_likelihood_builds_and_trains(mine, family):
    model = {"type": "mine:Neurons", "z_dim": 3}
    config = check({"dataset": "mine:counts", "model": model, "guide": {"type": "semi_amortized", "family": family}})
    data = build_data(config)
    torch.manual_seed(3)
    model, guide = build_model(config, data.x_shape)
    assert isinstance(guide.family, pv.Joint)
    assert guide.family.sites == ("gain", "z")
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1)), "the global generator is left where it was"
    assert pv.fit(model, guide, data, epochs=1, progress=False)["val/elbo"] < 0


RUN = """
dataset: {name: "mine:counts", batch_size: 20}
model: {type: "mine:Neurons", z_dim: 3}
guide: {type: "mine:Guide", family: joint}
train: {epochs: 1, accelerator: cpu}
"""


def made(folder: Path) -> Path:
    (folder / "neurons.yaml").write_text(RUN)
    assert train.main(["--config", "neurons.yaml", "--quiet"]) == 0
    return Path("runs/neurons/version_0")


def test_a_run_of_ones_own_classes_needs_a_word(mine, capsys):
    run = made(mine)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["components"] == {"mine": None}
    sys.modules.pop("mine")
    quick = ["--num-data", "4", "--num-annealed", "0", "--num-simulated", "0", "--max-steps", "5", "--num-samples", "5"]
    commands = {
        embed: [str(run), "--out", "z.npz"], sample: [str(run)], train: ["--resume", str(run)],
        evaluate: [str(run), *quick], compare: [str(run), "--out", "compared"],
    }  # fmt: skip
    for command, args in commands.items():
        capsys.readouterr()
        assert command.main([*args, "--quiet"]) == 4, command
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert "names mine:" in line
        assert "add --allow mine" in line
    assert "mine" not in sys.modules
    with pytest.raises(CheckpointError, match=r"names mine:counts, .* allow=\[\"mine\"\]"):
        pv.load(run, allow=["min", "mine.other"])
    trained = pv.load(run, allow=["mine"])
    assert trained.posterior(torch.ones(2, 8).numpy()).mean.shape == (2, 4)
    for command in (embed, sample, evaluate):
        assert command.main([*commands[command], "--quiet", "--allow", "mine"]) == 0
    assert "the model has no decode" in capsys.readouterr().err
    assert train.main(["--resume", str(run), "--quiet", "--allow=mine", "train.epochs=2"]) == 0


def test_a_strangers_run_imports_nothing(tmp_path):
    """The canary: whatever block names it, and however it is opened, its code does not run."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "evil.py").write_text("import pathlib\npathlib.Path('sung').touch()\nclass Class: pass\n")
    run = tmp_path / "run"
    config = check({"dataset": {"source": "embedded"}, "model": {"z_dim": 2}})
    data = tiny_images()
    pv.fit(*build_model(config, data.x_shape), data, epochs=1, run_dir=run, progress=False)
    plain = config.model_dump(mode="json")
    blocks = [("dataset",), ("model",), ("guide",), ("model", "prior"), ("model", "encoder"), ("guide", "family"), ("train", "objective"), ("train", "beta_warmup"), ("dataset", "augment")]  # fmt: skip
    code = """
import sys, json, pathlib, yaml
import pyrovae as pv
from pyrovae.cli import compare, embed, evaluate, sample, train
run, configs = sys.argv[1], json.loads(sys.argv[2])
for config in configs:
    pathlib.Path(run, "config.yaml").write_text(yaml.safe_dump(config))
    for command, *args in ((embed, "--out", "z.npz"), (sample,), (evaluate,), (compare,)):
        assert command.main([run, *args, "--quiet"]) == 4, command
    assert train.main(["--resume", run, "--quiet"]) == 4
    try:
        pv.load(run)
    except pv.training.CheckpointError as error:
        assert "evil:Class" in str(error), error
    else:
        raise SystemExit("loaded")
assert "evil" not in sys.modules
"""
    configs = []
    for path in blocks:
        bad = json.loads(json.dumps(plain))
        section = bad
        for key in path[:-1]:
            section = section[key]
        tag = "name" if path == ("dataset",) else "type"
        section[path[-1]] = {**(section[path[-1]] or {}), tag: "evil:Class"}
        configs.append(bad)
    args = [sys.executable, "-c", code, str(run), json.dumps(configs)]
    done = subprocess.run(args, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (home / "sung").exists()


def test_a_default_that_cannot_be_written_down_stays(mine):
    (mine / "mine.py").write_text(
        MINE
        + """

class Odd(pv.SVIRefiner):
    def __init__(self, *, rule=None, num_steps: int = 2):
        super().__init__(num_steps=num_steps)
        self.own = rule


class OddGuide(pv.AmortizedGuide):
    def __init__(self, family, encoder, *, refiner: pv.Refiner = Odd(rule=len)):
        super().__init__(family, encoder)
        self.refiner = refiner
"""
    )
    _, guide = build_model(check({"guide": "mine:OddGuide"}), (1, 4, 4))
    assert guide.refiner.own is len
    _, guide = build_model(check({"guide": {"type": "mine:OddGuide", "refiner": {"num_steps": 4}}}), (1, 4, 4))
    assert (type(guide.refiner).__name__, guide.refiner.num_steps) == ("Odd", 4)

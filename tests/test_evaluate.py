"""`scripts/evaluate.py` on a small run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pyrovae as pv
from pyrovae.cli import evaluate, train
from pyrovae.config import ConfigError
from pyrovae.training import CheckpointError

ROOT = Path(__file__).parent.parent
QUICK = ["--quiet", "--num-data", "12", "--num-samples", "30", "--num-particles", "4", "--num-annealed", "4", "--num-temperatures", "5", "--num-simulated", "40", "--num-probe", "100", "--max-steps", "100", "--shift", "rotated,occluded"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home") / "runs"
    overrides = ["dataset.source=embedded", "dataset.batch_size=500", "train.epochs=1", "model.z_dim=4", "guide.refiner.num_steps=2"]  # fmt: skip
    code = train.main(["--config", str(ROOT / "configs" / "ivae.yaml"), "--quiet", f"train.save_dir={folder}", "train.accelerator=cpu", *overrides])  # fmt: skip
    assert code == 0
    return folder / "ivae" / "version_0"


@pytest.fixture(scope="module")
def result(run):
    assert evaluate.main([str(run), *QUICK]) == 0
    return json.loads((run / "evaluation.json").read_text())


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if not key.startswith("seconds")}
    return value


SPLITS = ("train", "val", "test", "rotated", "occluded")


def test_every_split_has_every_number(result):
    assert tuple(result["splits"]) == SPLITS
    for numbers in result["splits"].values():
        for value in (numbers["elbo_init"], numbers["elbo"], numbers["iwae"], numbers["gap"]["approximation"], numbers["gap"]["amortization"], numbers["probe"]["knn"], numbers["probe"]["linear"]):  # fmt: skip
            assert isinstance(value["mean"], float)
            assert value["se"] >= 0
        assert 0 <= numbers["active_units"] <= 4
    assert result["scheme"] == {"guide": "semi_amortized", "family": "diagonal_normal", "refiner": "svi", "num_steps": 2, "objective": "elbo"}  # fmt: skip


def evaluated_again(run, folder, *args):
    copy = shutil.copytree(run, folder / "copy")
    assert evaluate.main([str(copy), *QUICK, *args]) == 0
    return json.loads((copy / "evaluation.json").read_text()), dict(np.load(copy / "evaluation.npz"))


def test_the_same_numbers_twice(run, result, tmp_path):
    again, arrays = evaluated_again(run, tmp_path)
    assert without_times({**again, "run": ""}) == without_times({**result, "run": ""})
    before = dict(np.load(run / "evaluation.npz"))
    assert arrays.keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(arrays[name], value, err_msg=name)
    assert len(list((tmp_path / "copy").glob("events.out.tfevents.*.evaluation"))) == 1, "old curves are taken away"


def test_a_measure_does_not_depend_on_the_others(run, result, tmp_path):
    alone = ("--split", "val", "--shift", "none", "--num-annealed", "0", "--num-simulated", "0")
    numbers, _ = evaluated_again(run, tmp_path, *alone)
    assert numbers["splits"] == {"val": result["splits"]["val"]}
    assert numbers["main"] == "val"
    left = {path.stem for path in (tmp_path / "copy" / "figures").glob("*.png")}
    assert "calibration" in result["figures"]
    assert {"gaps", "reconstructions"} <= left, "training's figures stay"
    assert not {"calibration", "occlusion"} & left, "those of an earlier evaluation do not"


def test_numbers_are_means_of_the_arrays(run, result):
    arrays = np.load(run / "evaluation.npz")
    for split in SPLITS:
        numbers = result["splits"][split]
        for name, value in (("elbo", numbers["elbo"]), ("iwae", numbers["iwae"]), ("gap_approximation", numbers["gap"]["approximation"])):  # fmt: skip
            array = arrays[f"{split}/{name}"].astype(float)
            assert len(array) == 12
            assert value["mean"] == pytest.approx(array.mean(), rel=1e-5)
            assert value["se"] == pytest.approx(array.std(ddof=1) / 12**0.5, rel=1e-4)


def test_gaps_add_up(result):
    for numbers in result["splits"].values():
        gap = {name: value["mean"] for name, value in numbers["gap"].items() if isinstance(value, dict)}
        assert gap["recovered"] + gap["remaining"] == pytest.approx(gap["amortization"], abs=1e-4)
        assert gap["approximation"] + gap["remaining"] == pytest.approx(gap["inference"], abs=1e-4)


def test_figures_and_tensorboard(run, result):
    names = {path.stem for path in (run / "figures").glob("*.png")}
    assert {"gaps", "bounds", "trajectory_long", "hardness", "gallery", "calibration", "traversals"} <= names
    events = list(run.glob("events.out.tfevents.*.evaluation"))
    tags = EventAccumulator(str(events[0])).Reload().Tags()
    assert "evaluation_test/gap.approximation" in tags["scalars"]
    assert "evaluation/gaps" in tags["images"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nowhere"], 4, "error: nowhere holds no config.yaml"),
        (["RUN", "--num-data", "0"], 2, "error: num_data: must be > 0, got 0"),
        (["RUN", "--shift", "rotted"], 2, "error: shifts: 'rotted' is unknown; valid: "),
        (["RUN", "--split", "tset"], 2, "error: splits: must be train, val or test, got 'tset'"),
        (["RUN", "model.z_dim=5"], 2, "error: model.z_dim"),
        (["RUN", "--shift", "other.yaml"], 2, "error: other.yaml: No such file or directory"),
    ],
)
def test_errors(run, args, code, message, capsys):
    assert evaluate.main([str(run) if arg == "RUN" else arg for arg in args] + ["--quiet"]) == code
    assert message in capsys.readouterr().err


PAGE = (ROOT / "docs" / "evaluation.md").read_text()


def test_documented_keys_are_there(result):
    numbers = result["splits"]["test"]
    for table in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        head, _, *rows = table.splitlines()
        where = {"in `splits.<split>`": numbers, "at the top": result, "part": numbers["gap"]}.get(
            head.split(" | ")[0].strip("| ")
        )
        assert where is not None, head
        for row in rows:
            for name in re.findall(r"`(\w+)`", row.split(" | ")[0]):
                assert name in where, name
    for name in ("trajectory", "hardness", "occlusion", "calibration", "predictive_checks"):
        assert name in result
        assert f"`{name}`" in PAGE


def test_documented_python_runs(run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run.parent.parent, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    less = "num_data=8, num_annealed=0, num_simulated=0, num_probe=50, max_steps=50"
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(code.replace("num_data=100", less), names)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_settings_of_another_name_are_refused(run):
    with pytest.raises(ConfigError, match="num_dta: unknown; did you mean num_data"):
        pv.evaluate_run(run, num_dta=5)
    with pytest.raises(ConfigError, match=r"^splits: must be a list, \[test\] say, got 'test'$"):
        pv.evaluate_run(run, splits="test")
    with pytest.raises(ConfigError, match=r"^splits: must be .*, got 'tset'$"):
        pv.evaluate_run(run, splits=["tset"])
    with pytest.raises(ConfigError, match=r"^splits: .* at least 1 item"):
        pv.evaluate_run(run, splits=[])
    with pytest.raises(CheckpointError, match="checkpoint must be best or last, got 'lats'"):
        pv.load(run, "lats")

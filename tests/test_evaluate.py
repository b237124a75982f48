"""`scripts/evaluate.py` on a small run."""

import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pyrovae.cli import evaluate, train

ROOT = Path(__file__).parent.parent
QUICK = ["--quiet", "--num-data", "20", "--num-samples", "20", "--num-particles", "4", "--num-annealed", "4", "--num-temperatures", "5", "--num-simulated", "40", "--num-probe", "100", "--max-steps", "100"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
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


SPLITS = ("train", "val", "test", "rotated", "noised", "occluded")


def test_every_split_has_every_number(result):
    assert tuple(result["splits"]) == SPLITS
    for numbers in result["splits"].values():
        for value in (numbers["elbo_init"], numbers["elbo"], numbers["iwae"], numbers["gap"]["approximation"], numbers["gap"]["amortization"], numbers["probe"]["knn"], numbers["probe"]["linear"]):  # fmt: skip
            assert isinstance(value["mean"], float)
            assert value["se"] >= 0
        assert 0 <= numbers["active_units"] <= 4
    assert result["scheme"] == {"guide": "semi_amortized", "family": "diagonal_normal", "refiner": "svi", "num_steps": 2, "objective": "elbo"}  # fmt: skip


def test_the_same_numbers_twice(run, result):
    arrays = dict(np.load(run / "evaluation.npz"))
    assert evaluate.main([str(run), *QUICK]) == 0
    again = json.loads((run / "evaluation.json").read_text())
    assert without_times(again) == without_times(result)
    repeated = dict(np.load(run / "evaluation.npz"))
    assert repeated.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(repeated[name], value, err_msg=name)


def test_a_measure_does_not_depend_on_the_others(run, result, tmp_path):
    alone = ["--split", "val", "--shift", "none", "--num-annealed", "0", "--num-simulated", "0"]
    assert evaluate.main([str(run), *QUICK, *alone]) == 0
    assert json.loads((run / "evaluation.json").read_text())["splits"]["val"] == result["splits"]["val"]
    assert evaluate.main([str(run), *QUICK]) == 0  # as it was


def test_numbers_are_means_of_the_arrays(run, result):
    arrays = np.load(run / "evaluation.npz")
    for split in SPLITS:
        numbers = result["splits"][split]
        for name, value in (("elbo", numbers["elbo"]), ("iwae", numbers["iwae"]), ("gap_approximation", numbers["gap"]["approximation"])):  # fmt: skip
            array = arrays[f"{split}/{name}"].astype(float)
            assert len(array) == 20
            assert value["mean"] == pytest.approx(array.mean(), rel=1e-5)
            assert value["se"] == pytest.approx(array.std(ddof=1) / 20**0.5, rel=1e-4)


def test_gaps_add_up(result):
    for numbers in result["splits"].values():
        gap = {name: value["mean"] for name, value in numbers["gap"].items() if isinstance(value, dict)}
        assert gap["recovered"] + gap["remaining"] == pytest.approx(gap["amortization"], abs=1e-4)
        assert gap["approximation"] + gap["remaining"] == pytest.approx(gap["inference"], abs=1e-4)


def test_figures_and_tensorboard(run, result):
    names = {path.stem for path in (run / "figures").glob("*.png")}
    assert {"gaps", "bounds", "trajectory_long", "hardness", "gallery", "calibration", "traversals"} <= names
    events = list(run.glob("events.out.tfevents.*.evaluation"))
    assert len(events) == 1, "an earlier evaluation's curves are taken away"
    tags = EventAccumulator(str(events[0])).Reload().Tags()
    assert "evaluation_test/gap.approximation" in tags["scalars"]
    assert "evaluation/gaps" in tags["images"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nowhere"], 4, "error: nowhere holds no config.yaml"),
        (["RUN", "--num-data", "0"], 2, "error: num_data: input should be greater than 0, got 0"),
        (["RUN", "--shift", "rotted"], 2, "error: shifts: 'rotted' is unknown; valid: "),
        (["RUN", "--split", "tset"], 2, "error: splits.0: "),
        (["RUN", "model.z_dim=5"], 2, "error: model.z_dim"),
        (["RUN", "--shift", "other.yaml"], 2, "error: other.yaml: No such file or directory"),
    ],
)
def test_errors(run, args, code, message, capsys):
    assert evaluate.main([str(run) if arg == "RUN" else arg for arg in args] + ["--quiet"]) == code
    assert message in capsys.readouterr().err

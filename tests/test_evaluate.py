"""`scripts/evaluate.py` on a small run."""

import json
import logging
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pyrovae as pv
from pyrovae.cli import evaluate, train
from pyrovae.config import ConfigError
from pyrovae.evaluation.subject import Measurement
from pyrovae.evaluation.table import grouped_warnings, table
from pyrovae.runs.evaluate import write
from pyrovae.runs.folder import device_of
from pyrovae.training import CheckpointError
from pyrovae.training.checkpoint import is_of

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
        assert 0 <= numbers["dims_in_use"] <= 4
        assert (numbers["num_data"], numbers["num_left_out"]) == (12, 0)
    assert result["failed"] == {}
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
    for rows_of in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        head, _, *rows = rows_of.splitlines()
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


# Measures that fail.

FEW = {"num_samples": 30, "num_particles": 4, "num_annealed": 3, "num_temperatures": 4, "num_simulated": 20, "max_steps": 10, "engine": "eager"}  # fmt: skip


def small(groups=None, shape=(1, 6, 5)):
    """A model, a guide and data of 20 datapoints a split, with labels."""
    torch.manual_seed(1)
    x = (torch.rand(3, 20, *shape) < 0.4).float()
    labels = {split: torch.arange(20) % 3 for split in ("train", "val", "test")}
    model = pv.models.mlp(shape, 2, widths=(8,))
    encoder = pv.nets.MLP(shape, (4,), widths=(8,))
    guide = pv.SemiAmortizedGuide(model, pv.DiagonalNormal(2), encoder, pv.SVIRefiner(num_steps=2))
    data = pv.data.Dataset("coins", "drawn", *x, labels=labels, class_names=("a", "b", "c"))
    if groups is not None:
        object.__setattr__(data, "groups", groups)
    return model, guide, data


def broken(*args, **kwargs):
    raise ZeroDivisionError("float division by zero")


MEASURES = {  # name: what is then missing
    "gaps": ("gaps", "test: gaps", lambda result: "gap" in result["splits"]["test"]),
    "representation": ("representation", "test: representation", lambda result: "dims_in_use" in result["splits"]["test"]),
    "trajectory": ("trajectory", "trajectory", lambda result: "trajectory" in result),
    "hardness": ("hardness", "hardness", lambda result: "hardness" in result),
    "predictive_checks": ("predictive_checks", "predictive checks", lambda result: "predictive_checks" in result),
    "annealed": ("annealed", "annealing", lambda result: "ais" in result),
    "calibration": ("calibration", "calibration", lambda result: "calibration" in result),
    "traversals": ("traversals", "traversals", lambda result: "traversals" in result["figures"]),
    "gap_bars": ("gap_bars", "figure gaps", lambda result: "gaps" in result["figures"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    return pv.evaluate(*small(), **FEW, splits=["test"], shifts=[])


@pytest.mark.parametrize("name", MEASURES)
def test_no_measure_takes_the_others_down(name, whole, monkeypatch):
    attribute, label, _ = MEASURES[name]
    assert whole["failed"] == {}
    monkeypatch.setattr(sys.modules["pyrovae.evaluation.evaluate"], attribute, broken)
    result = pv.evaluate(*small(), **FEW, splits=["test"], shifts=[])
    assert result["failed"] == {label: "ZeroDivisionError: float division by zero"}
    assert f"failed, and left out: {label} (ZeroDivisionError" in table(result)
    for other, (*_, present) in MEASURES.items():
        lacks = {name} | ({"hardness", "gap_bars"} if name == "gaps" else set())  # which gaps are about
        assert present(whole)
        assert present(result) == (other not in lacks), other
    if name != "gaps":
        for key, value in whole["splits"]["test"].items():
            assert name == "representation" or result["splits"]["test"][key] == value, key
    assert result["splits"]["test"]["elbo"]["mean"] < 0, "without λ*, too, there are bounds"


def test_inference_that_fails_for_one_split_spares_the_others(monkeypatch):
    model, guide, data = small()
    infer = type(guide).infer
    twos = data.val[:3].sum()

    def sometimes(self, x, *args, **kwargs):
        if x[:3].sum() == twos:
            raise RuntimeError("singular matrix\nand more")
        return infer(self, x, *args, **kwargs)

    monkeypatch.setattr(type(guide), "infer", sometimes)
    result = pv.evaluate(model, guide, data, **FEW, shifts=[])
    assert result["failed"] == {"val: inference": "RuntimeError: singular matrix"}
    assert result["splits"]["val"].keys() == {"num_data", "sketch"}
    assert result["splits"]["test"]["elbo"]["mean"] < 0
    assert re.search(r"^val +– +–", table(result), re.MULTILINE)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, torch.OutOfMemoryError])
def test_an_interrupt_and_memory_that_runs_out_end_the_evaluation(error, monkeypatch):
    def stop(*args, **kwargs):
        raise error

    model, guide, data = small()
    monkeypatch.setattr(sys.modules["pyrovae.evaluation.evaluate"], "gaps", stop)
    with pytest.raises(error):
        pv.evaluate(model, guide, data, **FEW, splits=["test"], shifts=[])


def test_a_datapoint_that_is_not_finite_is_left_out_of_one_split_and_counted():
    model, guide, data = small()
    data.test[4, 0, 0, 0] = math.nan
    result = pv.evaluate(model, guide, data, **FEW, shifts=[])
    numbers = result["splits"]["test"]
    assert (numbers["num_data"], numbers["num_left_out"]) == (20, 1)
    assert result["splits"]["val"]["num_left_out"] == 0
    for part in (numbers["elbo"], numbers["log_evidence"], *numbers["gap"].values(), result["ais"]):
        assert math.isfinite(part["mean"])
    assert numbers["dims_in_use"] is not None
    assert numbers["elbo_init"]["mean"] + numbers["gap"]["amortization"]["mean"] + numbers["gap"]["approximation"][
        "mean"
    ] == pytest.approx(numbers["log_evidence"]["mean"], abs=1e-11)
    assert any(text.startswith("test: 1 of 20 datapoints have bounds") for text in result["warnings"])
    assert "(20 of train, 20 of val, 19 of test)" in table(result)


def test_the_traceback_of_a_measure_that_fails_is_shown_with_debug(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["pyrovae.evaluation.evaluate"], "trajectory", broken)
    copy = shutil.copytree(run, tmp_path / "copy")
    less = ["--num-data", "4", "--max-steps", "5", "--num-annealed", "0", "--num-simulated", "0"]
    args = [str(copy), *QUICK, "--split", "test", "--shift", "none", *less]
    for debug in ([], ["--debug"]):
        assert evaluate.main([*args, *debug]) == 0
        out, err = capsys.readouterr()
        assert "failed, and left out: trajectory (ZeroDivisionError: float division by zero)" in out
        assert ("Traceback" in err) == bool(debug)
    logging.getLogger("pyrovae.evaluation").setLevel(logging.NOTSET)


def test_a_figure_that_cannot_be_written_is_named_and_the_rest_is_there(tmp_path, monkeypatch):
    (tmp_path / "figures").mkdir()
    figures = {"good": Figure(), "bad": Figure()}
    monkeypatch.setattr(figures["bad"], "savefig", broken)
    result = {"splits": {}, "figures": ["bad", "good"], "failed": {}}
    write(tmp_path, result, Measurement(figures=figures, values={"test/elbo": torch.zeros(3)}))
    assert json.loads((tmp_path / "evaluation.json").read_text()) == result
    assert result["failed"] == {"figure bad": "ZeroDivisionError: float division by zero"}
    assert result["figures"] == ["good"]
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["good.png"]
    assert (np.load(tmp_path / "evaluation.npz")["test/elbo"] == 0).all()


def test_a_damaged_earlier_evaluation_is_written_over(tmp_path):
    (tmp_path / "evaluation.json").write_text('{"figures": ["gaps"')
    write(tmp_path, {"splits": {}, "figures": [], "failed": {}}, Measurement())
    assert json.loads((tmp_path / "evaluation.json").read_text())["failed"] == {}


def test_standard_errors_are_over_photographs_where_the_data_know_them():
    result = pv.evaluate(*small({"test": torch.arange(20) // 10, "val": torch.arange(20)}), **FEW, shifts=[])
    test, val, train = (result["splits"][split] for split in ("test", "val", "train"))
    assert (test["num_groups"], val["num_groups"], "num_groups" in train) == (2, 20, False)
    assert any(text.startswith("test: standard errors are over 2 photographs") for text in result["warnings"])
    assert not any(text.startswith("train: standard errors") for text in result["warnings"])
    assert "mean ± standard error over groups of datapoints" in table(result)
    alone = table(pv.evaluate(*small(), **FEW, splits=["val"], shifts=[], num_data=500))
    assert "mean ± standard error over datapoints (20 a split)" in alone, "so many there are"


def test_results_carry_a_sketch_of_what_was_measured():
    model, guide, data = small()
    few = {**FEW, "num_annealed": 0, "num_simulated": 0}
    result = pv.evaluate(model, guide, data, **few, shifts=[])
    sketch = {split: numbers["sketch"] for split, numbers in result["splits"].items()}
    assert sketch["test"][:16] == data.test[:16].double().flatten(1).mean(1).tolist()
    assert sketch["test"][16:] == data.sketch()[32:48]
    assert not is_of(sketch["test"], sketch["val"])
    model, guide, other = small()
    other.test[2] = 1 - other.test[2]
    again = pv.evaluate(model, guide, other, **few, shifts=[])["splits"]
    assert is_of(sketch["val"], again["val"]["sketch"])
    assert not is_of(sketch["test"], again["test"]["sketch"])


def test_a_bar_does_not_fill_a_log(capsys):
    few = {**FEW, "num_annealed": 0, "num_simulated": 0}
    pv.evaluate(*small(), **few, splits=["val"], shifts=[], progress=True)
    assert "evaluating" not in capsys.readouterr().err


def test_warnings_that_differ_in_numbers_alone_are_one():
    found = grouped_warnings(
        ["val: 3 of 9 are high, use 1,000", "test: 14 of 90 are high, use 1,000", "test: few: 2", "general: 3"],
        ["test", "val"],
    )
    assert found == ["val: 3 of 9 are high, use 1,000 (likewise test)", "test: few: 2", "general: 3"]


def test_the_run_decides_on_the_device(monkeypatch):
    config = pv.config.check({"train": {"accelerator": "cpu"}})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of(config).type == "cpu"
    assert device_of(pv.config.check({"train": {"accelerator": "auto"}})).type == "cuda"
    assert device_of(None).type == "cuda"

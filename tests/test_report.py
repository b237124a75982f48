"""What a comparison says: whose data are the same, errors, tables, files and the page."""

import csv
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import fake_cell
import numpy as np
import pytest
import yaml

from pyrovae import comparison as c
from pyrovae.comparison import report, table
from pyrovae.comparison.figures import FIGURES
from pyrovae.comparison.plan import Cell
from pyrovae.comparison.results import Estimate, over_seeds, pooled, same_images
from pyrovae.config import ConfigError, build_data, changes, check
from pyrovae.runs.folder import RunFolder
from pyrovae.runs.load import Trained, open_run, read_config

BASE = {"dataset": {"source": "embedded"}, "model": {"z_dim": 4}}
SCHEMES = {
    "amortized": "amortized",
    "semi": {"type": "semi_amortized", "refiner": {"num_steps": 10}},
    "SVI": {"type": "svi", "refiner": {"num_steps": 20}},
}


def cells(folder, names=tuple(SCHEMES), seeds=(0, 1), **sections):
    """Cells of the three schemes, by other names if wanted."""
    found = []
    for seed in seeds:
        for name, guide in zip(names, SCHEMES.values(), strict=False):
            config = check({**BASE, **sections, "guide": guide, "train": {"seed": seed}})
            found.append(Cell(name, seed, config, folder / "cells" / f"{len(found)}" / "version_0"))
    return found


def written(folder, **options):
    """Evaluated fakes on disk: three schemes, two seeds."""
    found = cells(folder, **options)
    for cell in found:
        fake_cell.write(cell.run_dir, cell.config.model_dump(mode="json"), {"num_samples": 200})
    return found


def results(folder, **options):
    found, unreadable = c.read_results(written(folder, **options))
    assert not unreadable
    return found


@pytest.fixture
def no_figures(monkeypatch):
    """They take seconds."""
    monkeypatch.setattr(report, "FIGURES", {})


def page(out, found, **options):
    c.write_report(out, found, **options)
    return (out / "report.html").read_text(encoding="utf-8")


def result(scheme, seed, elbo, index, sketch=(0.1, 0.5), split="test"):
    values = {f"{split}/elbo": np.array(elbo, dtype=float), f"{split}/index": np.array(index)}
    evaluation = {"main": split, "splits": {split: {"sketch": [*sketch], "elbo": {"mean": 0.0}}}}
    return c.Result(Cell(scheme, seed, check({}), Path("none")), evaluation, values, [])


# Whose data and configuration are the same.


def arrays(folder, name, seed, guide="amortized", of=0):
    """A finished run, as far as a comparison of runs looks, on arrays at `folder/name/x.npy`."""
    x = np.random.default_rng(of).normal(size=(60, 5)).astype("f4")
    (folder / name).mkdir(parents=True, exist_ok=True)
    np.save(folder / name / "x.npy", x)
    run, where = folder / f"{name}-{guide}-{seed}", str(folder / name / "x.npy")
    dataset = {"name": "arrays", "path": where}
    config = check(
        {"dataset": dataset, "model": {"likelihood": "normal"}, "guide": guide, "train": {"seed": seed, "name": name}}
    )
    data = build_data(config)
    run.mkdir()
    RunFolder(run).write(config)
    (run / "summary.json").write_text(json.dumps({"sketch": data.sketch()}))
    x_means = data.take("test", 16)[0].mean(1).tolist()
    evaluation = {"splits": {"test": {"sketch": [*x_means, *data.sketch()[-16:]], "elbo": {"mean": 0.0}}}}
    evaluation |= {"dataset": "x.npy", "main": "test"}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    np.savez(run / "evaluation.npz", **{"test/elbo": np.arange(6.0) + seed, "test/index": np.arange(6)})
    return run


def test_arrays_of_equal_shape_elsewhere_are_other_data_and_the_same_ones_are_the_same(tmp_path):
    runs = [
        arrays(tmp_path, name, 0, guide, of)
        for name, guide, of in [("a", "amortized", 0), ("b", "svi", 0), ("d", "svi", 1)]
    ]
    one, same, other = c.read_results(c.cells_of_runs(runs))[0]
    assert same_images(one, same, "test")
    assert not same_images(one, other, "test")
    assert c.paired_difference([one], [same]).num_images == 6
    assert c.paired_difference([one], [other]) is None


def test_runs_on_the_same_data_elsewhere_are_seeds_of_one_scheme(tmp_path):
    runs = [arrays(tmp_path, name, seed, of=of) for name, seed, of in [("a", 0, 0), ("b", 1, 0), ("d", 2, 1)]]
    assert [(cell.scheme, cell.seed) for cell in c.cells_of_runs(runs)] == [("a", 0), ("a", 1), ("d", 2)]


def test_the_first_images_as_evaluated_tell_too():
    """Raw pixels go to 255, x to 1: those of x must count by themselves."""
    raw = [20.0 + 5 * i for i in range(16)]
    one, other = ([0.1 + 0.01 * (i + shift) for i in range(16)] for shift in (0, 3))
    sketches = [result("a", 0, [1.0, 2], [0, 1], [*x, *raw]) for x in (one, one, other)]
    assert same_images(sketches[0], sketches[1], "test")
    assert not same_images(sketches[0], sketches[2], "test")
    assert not same_images(sketches[0], result("a", 0, [1.0, 2], [0, 1], one), "test")
    assert not same_images(*[result("a", 0, [1.0, 2], [0, 1], []) for _ in range(2)], "test")  # not known


def test_an_array_that_moved_is_the_same_and_another_is_not(tmp_path):
    run = arrays(tmp_path, "a", 0)
    config = yaml.safe_load((run / "config.yaml").read_text())

    def planned(path):
        return SimpleNamespace(
            run_dir=run, name="cell", config=check({**config, "dataset": {"name": "arrays", "path": str(path)}})
        )

    (tmp_path / "moved").mkdir()
    shutil.move(tmp_path / "a" / "x.npy", tmp_path / "moved" / "x.npy")
    c.check_unchanged([planned(tmp_path / "moved" / "x.npy")])
    arrays(tmp_path, "other", 0, of=1)
    with pytest.raises(ConfigError, match=r"dataset.path: cell was run with .*a/x.npy, and is .*other/x.npy now"):
        c.check_unchanged([planned(tmp_path / "other" / "x.npy")])
    (run / "summary.json").unlink()  # it was stopped: nothing tells that the data are the same
    with pytest.raises(ConfigError, match=r"dataset.path: cell was run with"):
        c.check_unchanged([planned(tmp_path / "moved" / "x.npy")])


def test_a_run_tells_other_data_from_data_that_moved(tmp_path, monkeypatch, capsys):
    run = arrays(tmp_path, "a", 0)
    arrays(tmp_path, "b", 0, "svi")
    arrays(tmp_path, "d", 0, of=1)
    before = read_config(run)
    monkeypatch.setattr("pyrovae.runs.load.load", lambda *_, **__: Trained(None, None, before, (5,)))
    open_run(run, overrides=[f"dataset.path={tmp_path}/b/x.npy"])
    assert capsys.readouterr().err == ""
    open_run(run, overrides=[f"dataset.path={tmp_path}/d/x.npy"])
    assert re.search(r"warning: not the data that .* was trained on: .*, with other values", capsys.readouterr().err)
    moved = [f"dataset.path={tmp_path}/b/x.npy"]
    RunFolder(run).change(read_config(run, moved))  # the checkpoint's sketch tells
    with pytest.raises(ConfigError, match=r"dataset.val_fraction: cannot change on resume, from 0.1 to 0.2"):
        RunFolder(run).change(read_config(run, ["dataset.val_fraction=0.2"]))


def test_changes_of_a_configuration():
    before = check({"dataset": {"root": "a", "num_workers": 0}, "train": {"name": "a", "epochs": 2, "num_threads": 1}})
    same = check({"dataset": {"root": "b", "num_workers": 2}, "train": {"name": "b", "epochs": 2, "num_threads": 2}})
    assert changes(before, same) == []
    now = check({"model": {"z_dim": 7}, "guide": "svi", "train": {"epochs": 3}})
    keys = [key for key, *_ in changes(before, now)]
    assert keys[0] == "model.z_dim"
    assert {"guide.type", "train.epochs"} <= {*keys}
    assert changes(before, now, ignoring=["guide", "model.z_dim"]) == [("train.epochs", 2, 3)]


# Numbers.


def test_paired_differences_by_hand():
    first = [result("a", 0, [1.0, 2, 3, 9], [0, 1, 2, 5]), result("a", 1, [4.0, 3, 2], [2, 1, 0])]
    other = [result("b", 0, [4.0, 2, 5], [2, 0, 1]), result("b", 1, [2.0, 3, 8], [0, 1, 2]), result("b", 7, [0.0], [0])]
    # Images 0, 1, 2: seed 0 differs by 1, 3, 1 and seed 1 by 0, 0, 4; averaged 0.5, 1.5, 2.5.
    found = c.paired_difference(first, other)
    assert found.mean == pytest.approx(1.5)
    over_images, over_seeds = 1 / 3, np.var([5 / 3, 4 / 3], ddof=1) / 2
    assert found.se == pytest.approx(math.sqrt(over_images + over_seeds))
    assert found.interval == pytest.approx((1.5 - 1.96 * found.se, 1.5 + 1.96 * found.se))
    assert found[2:] == (3, 2, 0)
    alone = c.paired_difference(first[:1], other[:1])
    assert alone.mean == pytest.approx(5 / 3)
    assert alone.se == pytest.approx(np.std([1, 3, 1], ddof=1) / math.sqrt(3))  # over images alone
    assert c.paired_difference(first, [result("b", 5, [1.0, 2], [0, 1])]) is None  # no seed
    assert c.paired_difference(first, [result("b", 0, [1.0, 2], [7, 8])]) is None  # no image
    assert c.paired_difference(first, [result("b", 0, [1.0, 2], [0, 1], (0.7, 0.5))]) is None  # other data


def test_images_that_are_not_finite_are_left_out_and_counted(tmp_path, no_figures):
    first, other = result("a", 0, [1.0, 2, np.nan, 3], range(4)), result("b", 0, [2.0, 4, 5, np.inf], range(4))
    found = c.paired_difference([first], [other])
    assert (found.mean, found.num_images, found.num_left_out) == (1.5, 2, 2)
    text = page(tmp_path, [first, other])
    assert "2 test datapoints are left out of the difference of this scheme: they are not finite" in text
    assert "1 test datapoints are left out of the means of this scheme" in text


def test_errors_are_over_seeds_and_images():
    values = np.random.default_rng(0).normal(size=(3, 50)) + np.array([[0.0], [1], [2]])
    expected = values.mean(0).var(ddof=1) / 50 + values.mean(1).var(ddof=1) / 3
    assert pooled(values) == pytest.approx((values.mean(), math.sqrt(expected)))
    assert pooled(values[:1]).se == pytest.approx(values[0].std(ddof=1) / math.sqrt(50))
    assert math.isnan(pooled(values[:1, :1]).se)
    assert pooled(values, np.arange(50)) == pytest.approx(pooled(values))
    twice = np.repeat(values, 4, axis=1)  # each datapoint four times tells no more
    assert pooled(twice, np.repeat(np.arange(50), 4)) == pytest.approx(pooled(values))
    assert pooled(twice).se < pooled(values).se


def test_errors_over_seeds_of_means():
    assert over_seeds([Estimate(1.0, 0.5)]) == (1.0, 0.5)
    assert over_seeds([Estimate(1.0, 0.5), None, Estimate(4.0, 0.1)]) == pytest.approx((2.5, math.sqrt(0.13 + 2.25)))
    assert over_seeds([Estimate(18.0), Estimate(19.0)]) == pytest.approx((18.5, 0.5))
    assert over_seeds([None]) is None


@pytest.mark.parametrize(("num_seeds", "covered"), [(2, 0.86), (3, 0.91), (5, 0.94)])
def test_intervals_cover_nearly_what_they_should(num_seeds, covered):
    """Where seeds matter more than images; errors over images alone cover 66 to 83 %."""
    random, num, tries, hits, alone = np.random.default_rng(num_seeds), 100, 4000, 0, 0
    for _ in range(tries):
        images = random.normal(size=num)
        seeds = 2.5 * random.normal(size=(num_seeds, 1)) / math.sqrt(num)
        values = images + seeds + random.normal(size=(num_seeds, num)) * 0.5
        mean, se = pooled(values)
        hits += abs(mean) < 1.96 * se
        alone += abs(mean) < 1.96 * values.mean(0).std(ddof=1) / math.sqrt(num)
    assert hits / tries == pytest.approx(covered, abs=0.02)
    assert 0.64 < alone / tries < 0.84


def test_csv_parses_back_to_the_numbers(tmp_path, no_figures):
    found = results(tmp_path)
    c.write_report(tmp_path / "out", found)
    with (tmp_path / "out" / "table.csv").open(encoding="utf-8") as file:
        rows = {row["scheme"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["amortized", "semi", "SVI"]
    for scheme, row in rows.items():
        tests = [r.evaluation["splits"]["test"] for r in found if r.cell.scheme == scheme]
        values = [r.values for r in found if r.cell.scheme == scheme]
        for name in ("elbo_init", "elbo", "elbo_optimum", "log_evidence", "iwae"):
            assert float(row[name]) == pytest.approx(np.mean([test[name]["mean"] for test in tests]), rel=1e-12)
            each = np.stack([v[f"test/{name}"][np.argsort(v["test/index"])] for v in values])
            assert float(row[f"{name}_se"]) == pytest.approx(pooled(each).se, rel=1e-10)
        for gap in ("approximation", "amortization", "recovered", "remaining", "inference"):
            assert float(row[gap]) == pytest.approx(np.mean([test["gap"][gap]["mean"] for test in tests]), rel=1e-10)
        assert (float(row["dims_in_use"]), float(row["knn"])) == (18.5, 0.93)
    assert rows["amortized"]["difference"] == ""
    expected = c.paired_difference(found[::3], found[1::3])
    assert float(rows["semi"]["difference"]) == expected.mean
    assert float(rows["semi"]["difference_se"]) == expected.se
    # of paired images: far less than the images' own spread
    assert expected.se < 0.2 < found[0].evaluation["splits"]["test"]["elbo"]["se"]
    k10 = found[1].evaluation["trajectory"]["seconds_per_image"][fake_cell.STEPS.index(10)]
    assert float(rows["semi"]["train_seconds"]) == 130.5  # of the curve, which a resumed run continues
    assert float(rows["semi"]["ms_per_image"]) == pytest.approx(1e3 * k10)


def test_long_csv_holds_every_value(tmp_path, no_figures):
    found = results(tmp_path)
    c.write_report(tmp_path / "out", found)
    with (tmp_path / "out" / "values.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["scheme", "seed", "split", "image", "measure", "value"]
    elbo = {(x["scheme"], x["seed"], x["image"]): float(x["value"]) for x in lines if x["measure"] == "elbo"}
    assert len(elbo) == 6 * fake_cell.NUM_DATA
    last = found[5].values
    assert elbo["SVI", "1", str(last["test/index"][7])] == last["test/elbo"][7]
    assert {x["measure"] for x in lines}.isdisjoint({"index", "inputs", "reconstructions"})


def as_number(entry):
    return round(100 * float(entry.text.replace("−", "-")))


def test_columns_add_up_to_the_digit_shown():
    random = np.random.default_rng(0)
    for _ in range(30):
        found = [result(name, 0, random.normal(-100, 20, 9), range(9)) for name in "abc"]
        for one in found:
            for before, name in [("elbo", "elbo_init"), ("elbo", "elbo_optimum"), ("elbo_optimum", "log_evidence")]:
                one.values[f"test/{name}"] = one.values[f"test/{before}"] + random.gamma(2, size=9)
                one.evaluation["splits"]["test"][name] = {"mean": 0.0}
        levels = table.levels_table(table.rows(found, "test"))
        assert [column[:1] for column in levels.columns[3::2]] == ["+", "+", "+"]
        assert [column[:1] for column in levels.columns[4::2]] == ["=", "=", "="]
        assert levels.lines[0][1].text == "–"
        for line in levels.lines:
            for before, gap, level in zip(line[2::2], line[3::2], line[4::2], strict=False):
                assert as_number(before) + as_number(gap) == as_number(level)
        for line in levels.lines[1:]:
            assert as_number(levels.lines[0][4]) + as_number(line[1]) == as_number(line[4])


def test_constant_columns_are_said_once(tmp_path, no_figures):
    text = page(tmp_path / "out", results(tmp_path, seeds=(0,)))
    assert "The same for all: dimensions in use 18.0, kNN probe 0.930 ± 0.010." in text
    assert "<th>kNN probe</th>" not in text
    assert "<th>training, s</th>" in text
    assert "family diagonal_normal" in text
    kept, gone = table.without_constants(table.Table("", ["scheme", "x"], [[table.Entry("a"), table.Entry("1")]]))
    assert (list(kept.columns), gone) == (["scheme", "x"], {})  # one scheme: nothing is constant


def test_where_nothing_refines_one_level_is_shown():
    found = [result("a", 0, [1.0, 2], range(2))]
    found[0].values["test/elbo_init"] = found[0].values["test/elbo"]
    found[0].evaluation["splits"]["test"]["elbo_init"] = {"mean": 0.0}
    assert table.levels_table(table.rows(found, "test")).columns == ["scheme", "ELBO at λ_K"]


def test_the_table_in_latex(tmp_path, no_figures):
    c.write_report(tmp_path / "out", results(tmp_path, names=("a_b & c%", "semi", "SVI")))
    lines = (tmp_path / "out" / "table.tex").read_text(encoding="utf-8").splitlines()
    assert "\\toprule" in lines
    assert lines[-1] == "\\end{tabular}"
    body = [line for line in lines if line.endswith("\\\\")]
    assert body[1].startswith(r"a\_b \& c\% & -- & $-$")
    assert {line.replace(r"\&", "").count("&") for line in body} == {8}
    assert r"= ELBO at $\lambda_K$" in body[0]
    assert all(ord(letter) < 128 for line in body for letter in line)


# Files.


def test_a_damaged_evaluation_is_told_and_the_others_are_compared(tmp_path, no_figures):
    found = written(tmp_path)
    for cell, text in zip(found[:3], ['{"splits": {"te', "[1, 2]", '{"splits": 3}'], strict=True):
        (cell.run_dir / "evaluation.json").write_text(text)
    (found[3].run_dir / "evaluation.npz").write_bytes(b"PK\x03\x04 cut off")
    (found[4].run_dir / "evaluation.json").unlink()
    left, unreadable = c.read_results(found)
    assert [one.cell for one in left] == [found[5]]
    assert [line.partition(":")[0] for line in unreadable] == [cell.name for cell in found[:5]]
    assert all(
        "remove its evaluation.json" in line and str(found[0].run_dir.parent.parent) in line for line in unreadable
    )
    text = page(tmp_path / "out", left, unreadable=unreadable)
    assert "amortized, seed 0: cannot read the evaluation in" in text
    assert "amortized, seed 0: cannot read" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


def test_values_that_are_no_numbers_are_not_measured(tmp_path, no_figures):
    found = results(tmp_path)
    found[0].evaluation["splits"]["test"].update(iwae="much", probe=3, gap=None, dims_in_use=None)
    page(tmp_path / "out", found)
    with (tmp_path / "out" / "table.csv").open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))  # that of this cell's scheme: another seed has numbers
    other = found[3].evaluation["splits"]["test"]
    assert (float(row["dims_in_use"]), float(row["knn"])) == (other["dims_in_use"], other["probe"]["knn"]["mean"])


def test_another_split(tmp_path, no_figures):
    """What an evaluation calls its main split is compared, and any other if asked."""
    found = [result(name, 0, elbo, range(3), split="val") for name, elbo in [("a", [1.0, 2, 4]), ("b", [3.0, 4, 7])]]
    assert "On 3 val datapoints, by ELBO at λ<sub>K</sub>: b gains 2.34" in unescape(page(tmp_path, found))
    assert found[0].main == "val"
    found[0].evaluation["splits"]["test"] = {}
    assert found[0].main == "val"
    for one in found:
        one.evaluation["splits"]["train"] = one.evaluation["splits"]["val"]
        one.values.update({"train/elbo": one.values["val/elbo"] ** 2, "train/index": one.values["val/index"]})
    assert "On 3 train datapoints, by ELBO at λ<sub>K</sub>: b" in page(tmp_path, found, split="train")
    assert c.paired_difference(found[:1], found[1:], split="train").mean == pytest.approx((8 + 12 + 33) / 3)


def test_files_are_whole_or_as_they_were(tmp_path, monkeypatch, no_figures):
    found, out = results(tmp_path), tmp_path / "out"
    c.write_report(out, found)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert {*before} == {"report.html", "table.md", "table.csv", "table.tex", "values.csv"}

    def full(results):
        yield "scheme"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table, "long_csv", full)
    with pytest.raises(OSError, match=r"cannot write .*values.csv \(No space left on device\); make room"):
        c.write_report(out, found[:3])
    after = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert after.keys() == before.keys()
    assert after["values.csv"] == before["values.csv"]


def test_a_figure_that_fails_takes_nothing_down(tmp_path, monkeypatch):
    def bad(rows, split):
        raise ValueError("no <axes>")

    monkeypatch.setattr(report, "FIGURES", {"gaps": bad})
    text = page(tmp_path / "out", results(tmp_path))
    assert "figures/gaps.png was not drawn (ValueError: no &lt;axes&gt;)" in text


def test_what_was_not_measured_is_left_out(tmp_path):
    found = cells(tmp_path)
    for cell in found:
        cell.run_dir.mkdir(parents=True)
        splits = {"test": {"elbo": {"mean": -1.0, "se": None}, "gap": None, "probe": None}}
        (cell.run_dir / "evaluation.json").write_text(json.dumps({"splits": splits, "trajectory": None}))
    left, _ = c.read_results(found)
    text = page(tmp_path / "out", left)
    assert "| scheme | ELBO at λ_K |" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8").splitlines()
    assert list((tmp_path / "out" / "figures").iterdir()) == []
    assert "<img" not in text
    assert "This evaluation does not say which test data it is of, so it is not subtracted; evaluate again." in text
    assert "Of 3 schemes, none can be subtracted" in text


def test_one_scheme_is_told_by_its_elbo(tmp_path, recwarn):
    (first, *_) = results(tmp_path)
    first = replace(first, evaluation={**first.evaluation, "trajectory": None}, curve=[(1.0, -100.0)])
    text = page(tmp_path / "out", [first], lead=["Of 3 trials, this is best."])
    told = r"Of 3 trials, this is best\. amortized has an ELBO of \S+( ± \S+)? nats at λ.*; no other scheme is compared with it"
    assert re.search(told, re.sub("<[^>]+>", "", text))
    assert not [one for one in recwarn if "singular" in str(one.message)]  # by a curve of one point
    assert (tmp_path / "out" / "table.tex").read_text(encoding="utf-8").endswith("tabular}\n")


def test_nothing_at_all_is_a_page_too(tmp_path):
    failed = SimpleNamespace(cell=cells(tmp_path)[0], code=3, message="no data", log=Path("log.txt"))
    assert "amortized, seed 0: exit code 3: no data (log: log.txt)" in page(tmp_path / "out", [], failures=[failed])


# The page.


def test_the_table_in_words(tmp_path, no_figures):
    found = results(tmp_path)
    numbers = {"nll": 100.5, "log_evidence": -100.5, "source": "S"}
    c.write_report(tmp_path / "out", found, title="three", published={"amortized": numbers})
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    header = "| scheme | ELBO − that of amortized | ELBO at λ₀ | + recovered by steps | = ELBO at λ_K |"
    assert any(line.startswith(header) for line in text.splitlines())
    assert re.search(r"\| amortized \| – \| −\d+\.\d\d ± \d\.\d\d \| 0\.00 ± 0\.00 \|", text)
    assert not re.search(r"[| ]-\d", text)  # minus signs are minus signs
    difference = c.paired_difference(found[::3], found[1::3])
    assert re.search(rf"\| semi \| \+7\.\d\d ± {difference.se:.2f} \|", text)
    nll = -np.mean([r.evaluation["splits"]["test"]["iwae"]["mean"] for r in found[::3]])
    assert f"| 100.50 | {nll:.2f} ±" in text
    assert f"| amortized | log p(x) | −100.50 | −{nll:.2f} ±" in text
    assert f"| +{nll - 100.5:.2f} | S |" in text


def test_the_first_sentence_is_the_result(tmp_path, no_figures):
    noise = np.random.default_rng(0).normal(size=50)
    found = [result("base", 0, 0 * noise, range(50))]
    found += [result(name, 0, mean + noise, range(50)) for name, mean in [("up", 3.0), ("down", -3), ("same", 0)]]
    text = unescape(page(tmp_path, found))
    assert re.search(r"up gains 3\.\d\d ± 0\.1\d nats over base; same cannot be told from base \([+−]0\.\d\d ±", text)
    assert re.search(r"; down loses [23]\.\d\d ± 0\.1\d nats to base\. ± is one standard error over datapoints", text)
    assert "with one seed, this is about these runs, not these schemes" in text
    found += [result(one.cell.scheme, 1, one.values["test/elbo"] + 0.1, range(50)) for one in found]
    text = page(tmp_path, found)
    assert "± is one standard error over datapoints and 2 seeds." in text
    assert "not these schemes" not in text
    many = [result(f"s{i}", 0, i + noise, range(50)) for i in range(12)]
    assert "; 6 more are in the table." in page(tmp_path, many)


def test_the_page_needs_nothing_else_and_is_escaped(tmp_path):
    found = results(tmp_path, names=("amortized", '<b>semi</b> & "co"', "SVI"))
    published = {"amortized": {"nll": 100.5, "source": "Someone & al. <2020>"}}
    failed = SimpleNamespace(cell=found[0].cell, code=3, message="<b>no</b> data", log=Path("log.txt"))
    text = page(tmp_path / "out", found, published=published, failures=[failed], settings="<b>cells</b>: 1")
    assert {*re.findall(r'(?:src|url)\s*[=(]\s*"?([^";,]*)', text)} == {"data:image/png"}
    assert not re.search(r"http|<script|<link|@import", text)
    assert text.count("<img") == len(FIGURES) == text.count("<figcaption>")
    assert "&lt;b&gt;semi&lt;/b&gt; &amp; &#34;co&#34;" in text
    assert "<b>" not in text
    assert "3 images weigh &lt;too much&gt;" in text
    assert "Someone &amp; al. &lt;2020&gt;" in text
    assert re.search(r"<details><summary>What was run</summary><pre>&lt;b&gt;cells", text)
    for link in re.findall(r'href="([^"#]+)"', text):  # to runs and files, relative
        assert not link.startswith("/")
        assert (tmp_path / "out" / link).exists(), link


def test_warnings_are_grouped_and_the_schemes_marked(tmp_path, no_figures):
    found = results(tmp_path)
    for i, one in enumerate(found):
        one.evaluation["warnings"] = [f"k̂ of {i + 1} of 1,000 images is high; IWAE-{i} is low", "all of them"][
            : 2 - (i > 2)
        ]
    found[2].evaluation["failed"] = {"hardness": "no labels"}
    text = page(tmp_path / "out", found)
    assert text.count("all of them") == 1 + 3 * 3  # in the list, and as titles of the daggers of three tables
    assert "hardness was not measured: no labels <span>(SVI, seed 0)</span>" in text
    listed = text[text.index("<h2>Warnings") :]
    number = re.search(r'<li id="warning-(\d+)">hardness', listed)[1]
    marked = re.findall(rf'<td>(\w+)(?:<sup>(?:(?!</td>).)*)?<sup><a href="#warning-{number}"', text)
    assert {*marked} == {"SVI"}
    assert report._common(["3 of 50, -1.5 nats", "12 of 50, −2.5 nats"]) == "3 to 12 of 50, −2.5 to -1.5 nats"
    assert report._common(["torch 2.14.1 is old", "torch 2.14.1 is old"]) == "torch 2.14.1 is old"


def test_the_page_says_what_ran_side_by_side_and_of_what_it_is(tmp_path, no_figures):
    found = written(tmp_path)
    for cell in found:
        about = {"commit": "abc123", "num_train": 4000, "machine": {"cpu": "Some CPU", "cores": 2, "gpu": None}}
        (cell.run_dir / "summary.json").write_text(json.dumps(about))
    found, _ = c.read_results(found)
    text = page(tmp_path / "out", found, run={"engine": "local", "jobs": 3, "cpus": None, "slurm": {}})
    assert "while up to 3 jobs ran side by side" in text
    for name, value in {
        "data": "made-up digits", "commit": "abc123", "hardware": "cpu Some CPU, cores 2", "seeds": "0, 1",
        "run by": "engine local, jobs 3", "test datapoints measured": "40", "training datapoints": "4000",
    }.items():  # fmt: skip
        assert f"<dt>{name}</dt><dd>{value}</dd>" in text
    assert "side by side" not in page(tmp_path / "out", found)
    assert "<td>12,345</td>" in text  # parameters


def test_figures_show_the_numbers(tmp_path):
    found = results(tmp_path)
    rows = table.rows(found, "test")
    forest = FIGURES["forest"](rows, "test")
    assert [axes.get_title() for axes in forest.axes] == [
        "ELBO at λ_K − that of amortized",
        "log p̂ − that of amortized",
    ]
    interval = next(line for line in forest.axes[0].lines if len(line.get_xdata()) == 2)
    assert list(interval.get_xdata()) == pytest.approx(c.paired_difference(found[::3], found[1::3]).interval)
    (bars,) = FIGURES["gaps"](rows, "test").axes
    told = {f"{entry.text}" for line in table.levels_table(rows).lines for entry in line[3::2]}
    assert {text.get_text() for text in bars.texts} == told  # the table's own digits
    steps, ms, train = FIGURES["costs"](rows, "test").axes
    semi = next(line for line in steps.lines if line.get_label() == "semi")
    elbo = np.mean([r.evaluation["trajectory"]["elbo"] for r in found[1::3]], axis=0)
    assert semi.get_ydata() == pytest.approx(elbo)
    dot = steps.lines[steps.lines.index(semi) + 1]
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (10, pytest.approx(elbo[fake_cell.STEPS.index(10)]))
    assert next(line for line in ms.lines if line.get_label() == "semi").get_xdata()[0] == pytest.approx(2e-2)
    assert len(train.lines) == 6  # one a seed
    for draw in FIGURES.values():
        for axes in draw(rows, "test").axes:
            assert axes.get_xlabel() or axes.get_ylabel() or axes.get_title()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_off_the_screen(tmp_path, width):
    page(tmp_path / "out", results(tmp_path), published={"amortized": {"nll": 100.5, "source": "Someone " * 20}})
    frame = f'<iframe id=f src="out/report.html" style="width:{width}px;height:800px"></iframe><pre id=o></pre>'
    script = (
        "const d=f.contentDocument.documentElement;o.textContent=`wide ${d.scrollWidth} boxes ${[...d.querySelectorAll('.box')]"
        ".filter(b=>b.scrollWidth>b.clientWidth).length}`"
    )
    (tmp_path / "frame.html").write_text(f"<body>{frame}<script>onload=()=>{{{script}}}</script></body>")
    words = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--no-first-run",
    ]
    words += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900"]
    done = subprocess.run(
        [*words, "--dump-dom", f"file://{tmp_path}/frame.html"], capture_output=True, text=True, timeout=120, check=True
    )
    wide, boxes = map(int, re.search(r"wide (\d+) boxes (\d+)<", done.stdout).groups())
    assert wide <= width
    assert width < 1280 or boxes == 0  # nothing to scroll for

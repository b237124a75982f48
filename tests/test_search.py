"""The search: what it draws, ends early, keeps, goes on with, and leaves; trials are fakes whose optimum is known."""

import csv
import math
import re
import sys
from collections import Counter

import pytest
import yaml

from pyrovae import comparison as c
from pyrovae.comparison.plan import SearchSettings
from pyrovae.config import ConfigError, load_config

optuna = pytest.importorskip("optuna")

VALUES = {"guide": {"type": "svi", "refiner": {"num_steps": 3}}, "train": {"epochs": 8}}
SPACE = {"guide.refiner.lr": {"low": 0.001, "high": 1.0, "log": True}}
# val/elbo rises by one an epoch, to 0 at lr 0.1 and less elsewhere. A trial goes on where it was, as training does.
TRIAL = """
import csv, json, math, os, sys, time
run, lr, epochs, pace = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
os.makedirs(run, exist_ok=True)
path = run + "/metrics.csv"
begin = len(open(path).readlines()) - 1 if os.path.exists(path) else 0
if lr < 0: sys.exit("error: it diverged")
with open(path, "a") as file:
    if not begin: file.write("epoch,val/elbo\\n")
    level = -5 * math.log10(lr / 0.1) ** 2
    for epoch in range(begin, epochs):
        value = level - (epochs - 1 - epoch)
        file.write(f"{epoch},{value}\\n")
        file.flush()
        time.sleep(pace)
json.dump({"seconds": 1.0, "val/elbo": level, "test/elbo": level}, open(run + "/summary.json", "w"))
"""


def search(out, trials=12, values=VALUES, seed=0, **settings) -> c.Search:
    return c.Search("svi", values, SearchSettings(**{"trials": trials, "space": SPACE, **settings}), out, seed)


def go(one: c.Search, out, jobs=2, pace=0.0, say=lambda text: None, lr=None) -> list[str]:
    """Runs a search with fake trials."""

    def job_of(cell):
        chosen = cell.config.guide.refiner.lr if lr is None else lr(cell)
        words = (cell.run_dir, chosen, cell.config.train.epochs, pace)
        command = (sys.executable, "-S", "-E", "-c", TRIAL, *map(str, words))
        return c.Job(command, out / "logs" / f"{cell.file_name}.txt", out)

    with c.ENGINES["local"](c.ComparisonSettings(cells={"svi": {}}, run={"jobs": jobs}).run, out, jobs) as engine:
        return one.run(engine, job_of, say)


def test_twelve_trials_come_near_the_optimum(tmp_path):
    one, said = search(tmp_path, prune_after=None), []
    assert go(one, tmp_path, say=said.append) == []
    assert [trial.state.name for trial in one.study.trials] == ["COMPLETE"] * 12
    best, *_, worst = one.done
    assert best.value > -0.5
    assert worst.value < best.value - 1
    assert best.params["guide.refiner.lr"] == pytest.approx(0.1, rel=1)
    assert any(line.startswith("svi, trial 3 (guide.refiner.lr 0.") and "val/elbo -" in line for line in said)
    c.write_trials([one], tmp_path)
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val/elbo"]) for row in rows] == [trial.value for trial in one.study.trials]
    assert [row["trial"] for row in rows] == [str(i) for i in range(12)]
    config = load_config(tmp_path / "best.yaml")
    assert config.guide.refiner.lr == best.params["guide.refiner.lr"]
    assert (config.train.epochs, config.train.name, config.train.save_dir) == (8, "best", "runs")
    assert (tmp_path / "figures" / "search.png").stat().st_size > 1000


def test_a_trial_that_lags_behind_is_ended(tmp_path):
    """Its process ends by SIGTERM, before its time; the best is never one of these."""
    one = search(tmp_path, trials=8, prune_after=1)
    assert go(one, tmp_path, pace=0.5, jobs=3) == []
    states = Counter(trial.state.name for trial in one.study.trials)
    assert states["PRUNED"] > 0
    assert states["COMPLETE"] + states["PRUNED"] == 8
    for trial in one.study.trials:
        whole = (one.of_trial(trial).run_dir / "summary.json").is_file()
        assert whole == (trial.state.name == "COMPLETE")
        assert (len(trial.intermediate_values) == 8) == whole
    assert one.done[0].value > max(
        v for t in one.study.trials if t.state.name == "PRUNED" for v in t.intermediate_values.values()
    )


def test_a_search_goes_on_after_an_interrupt(tmp_path):
    def interrupt(text):
        if "trial 3" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(search(tmp_path, prune_after=None), tmp_path, pace=0.02, say=interrupt)
    before = search(tmp_path).study.trials
    assert {"COMPLETE", "RUNNING"} == {trial.state.name for trial in before}
    one = search(tmp_path, prune_after=None)
    assert go(one, tmp_path) == []
    after = one.study.trials
    assert [trial.params for trial in after[: len(before)]] == [trial.params for trial in before]
    assert [trial.state.name for trial in after] == ["COMPLETE"] * 12
    assert len({trial.params["guide.refiner.lr"] for trial in after}) == 12  # the sampler draws no number again
    unfinished = one.of_trial(next(trial for trial in before if trial.state.name == "RUNNING"))
    rows = (unfinished.run_dir / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", *map(str, range(8))]  # its cell went on, too
    assert go(search(tmp_path), tmp_path) == []
    assert len(search(tmp_path).study.trials) == 12
    more = search(tmp_path, trials=13)
    go(more, tmp_path)
    assert len(more.study.trials) == 13


def test_a_trial_that_fails_is_told_and_does_not_stop_the_others(tmp_path):
    one = search(tmp_path, trials=4, prune_after=None)
    (line,) = go(one, tmp_path, lr=lambda cell: -1 if "trial_1" in cell.scheme else 0.1)
    log = tmp_path / "logs" / "svi-trial_1-seed_0.txt"
    assert re.fullmatch(rf"svi, trial 1 \(guide.refiner.lr .*\): it diverged; see {log}", line)
    assert [trial.state.name for trial in one.study.trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


def test_cells_take_the_best_values(tmp_path):
    one = search(tmp_path, trials=3, prune_after=None)
    text = yaml.safe_dump({"base": VALUES, "cells": {"svi": {}, "other": {}}, "seeds": [0, 1]}, sort_keys=False)
    (tmp_path / "c.yaml").write_text(text)
    settings, _ = c.load_settings(tmp_path / "c.yaml")
    cells = c.plan(settings, c.schemes_of(settings, [], tmp_path / "c.yaml"), tmp_path)
    assert c.tuned(cells, [one]) == cells  # nothing is found yet
    go(one, tmp_path)
    best = one.done[0]
    tuned = c.tuned(cells, [one])
    assert [cell.name for cell in tuned] == [cell.name for cell in cells]
    assert tuned[0].run_dir == one.of_trial(best).run_dir  # trained already
    assert c.state(tuned[0].run_dir, {}) == "trained"
    assert tuned[2].run_dir == tmp_path / "cells" / f"svi-trial_{best.number}-seed_1" / "version_0"
    for cell, seed in [(tuned[0], 0), (tuned[2], 1)]:
        assert (cell.config.guide.refiner.lr, cell.config.train.seed) == (best.params["guide.refiner.lr"], seed)
    assert tuned[1] is cells[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"space": {"guide.refiner.num_step": [1, 2]}},
            r"guide.refiner.num_step: unknown key .* did you mean num_steps\?",
        ),
        (
            {"space": {"guide.refiner.lr": {"low": -1.0, "high": 1.0}}},
            r"guide.refiner.lr: must be > 0 or auto, got -1.0",
        ),
        ({"space": {"guide.refiner.num_steps": [3, 0]}}, "guide.refiner.num_steps: must be >= "),
    ],
)
def test_values_that_training_refuses_are_found_before(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        search(tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{trials: 0, space: {a: [1]}}", r"search.trials: must be >= 1, got 0"),
        ("{trials: 2, space: {}}", r"search.space: "),
        ("{trials: 2, space: {a: {low: 2, high: 1}}}", r"search.space.a: must have low < high"),
        (
            "{trials: 2, space: {a: {low: 0, high: 1, log: true}}}",
            r"search.space.a: must have low < high, and 0 < low with log",
        ),
        ("{trials: 2, space: {a: {low: 0, hihg: 1}}}", r"search.space.a.hihg: unknown key .* did you mean high\?"),
        ("{trails: 2, space: {a: [1]}}", r"search.trails: unknown key .* did you mean trials\?"),
    ],
)
def test_errors_of_the_section(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(f"cells: {{a: {{}}}}\nsearch: {text}")
    with pytest.raises(ConfigError, match=message):
        c.load_settings(tmp_path / "c.yaml")


def test_whole_numbers_and_choices(tmp_path):
    space = {
        "guide.refiner.num_steps": {"low": 2, "high": 9},
        "model.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "guide.refiner.optimizer": ["adam", "sgd"],
    }
    one = search(tmp_path, trials=6, space=space, prune_after=None)
    go(one, tmp_path, jobs=3)
    params = [trial.params for trial in one.study.trials]
    assert all(isinstance(p["guide.refiner.num_steps"], int) and 2 <= p["guide.refiner.num_steps"] <= 9 for p in params)
    assert all(1e-4 <= p["model.lr"] <= 1e-2 for p in params)
    assert {p["guide.refiner.optimizer"] for p in params} <= {"adam", "sgd"}
    assert {one.of_trial(t).config.guide.refiner.optimizer for t in one.study.trials} <= {"adam", "sgd"}


def test_what_to_maximize_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match=r"search.maximize: val/nll is not in summary.json; valid: .*val/elbo"):
        go(search(tmp_path, trials=1, maximize="val/nll"), tmp_path)
    other = search(tmp_path / "b", trials=2, maximize="test/elbo")  # not in metrics.csv: nothing is ended early
    (tmp_path / "b").mkdir()
    assert go(other, tmp_path / "b") == []
    assert all(math.isfinite(trial.value) for trial in other.study.trials)


def test_trials_of_another_configuration_are_refused(tmp_path):
    one = search(tmp_path, trials=2)
    go(one, tmp_path)
    trial = one.of_trial(one.study.trials[0])
    (trial.run_dir / "config.yaml").write_text(yaml.safe_dump(trial.config.model_dump(mode="json")))
    assert search(tmp_path, trials=2).study.trials
    with pytest.raises(ConfigError, match=r"train.epochs: svi-trial_0, seed 0 was run with 8, and is 9 now"):
        _ = search(tmp_path, values={**VALUES, "train": {"epochs": 9}}).study

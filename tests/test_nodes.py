"""Training by several processes on several machines, which here are this one over its loopback."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyrovae as pv
from pyrovae.cli.train import main as train

SCRIPT = Path(__file__).parent.parent / "scripts" / "train.py"
WORDS = [
    *["--config", "ivae", "--quiet", "dataset.source=embedded", "dataset.batch_size=500", "train.accelerator=cpu"],
    *["model.z_dim=2", "train.epochs=1", "train.strategy=ddp", "train.engine=eager", "guide.refiner.num_steps=1"],
]
LOOPBACK = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}


def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def run_all(commands: list[tuple[list[str], dict[str, str], Path]]) -> list[str]:
    """What processes print that run at once, each with its own variables in its own folder."""
    shared = {**LOOPBACK, "MASTER_PORT": port()}
    started = []
    for words, own, folder in commands:
        folder.mkdir(exist_ok=True)
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, *words], env={**shared, **own}, cwd=folder, **pipe))
    try:
        ended = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), ended
    return [out for out, _ in ended]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return pv.training.read_checkpoint(folder / "runs" / "ivae" / "version_0" / "checkpoints" / "last.ckpt")[
        "state_dict"
    ]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights after training by two processes of one machine, which Lightning starts."""
    folder = tmp_path_factory.mktemp("two")
    (out,) = run_all([([str(SCRIPT), *WORDS, "train.devices=2"], {}, folder)])
    assert [path.name for path in (folder / "runs" / "ivae").iterdir()] == ["version_0"]
    assert out.count("gain") == 1
    return weights(folder)


def slurm(rank: int) -> dict[str, str]:
    """As `srun` sets it on two nodes of one task each."""
    common = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1"}
    return {**common, "SLURM_NNODES": "2", "SLURM_PROCID": f"{rank}", "SLURM_LOCALID": "0", "SLURM_NODEID": f"{rank}"}


@pytest.mark.parametrize("environment", [lambda rank: {"NODE_RANK": str(rank)}, slurm], ids=["by hand", "SLURM"])
def test_two_nodes_of_one_process_equal_two_processes_of_one(environment, two_processes, tmp_path):
    folders = [tmp_path / f"node{rank}" for rank in range(2)]
    words = [str(SCRIPT), *WORDS, "train.num_nodes=2"]
    outs = run_all([(words, environment(rank), folder) for rank, folder in enumerate(folders)])
    found = weights(folders[0])
    assert found.keys() == two_processes.keys()
    for name, value in found.items():
        assert torch.equal(value, two_processes[name]), name
    assert [folder.name for folder in (folders[0] / "runs" / "ivae").iterdir()] == ["version_0"]
    assert not list(folders[1].iterdir())  # it shares no disk with the first, and writes nothing
    assert "gain" in outs[0]
    assert outs[1] == ""


def test_torchrun_equals_what_lightning_starts(two_processes, tmp_path):
    words = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port()}"]
    run_all([([*words, str(SCRIPT), *WORDS, "train.devices=2"], {}, tmp_path)])
    found = weights(tmp_path)
    for name, value in found.items():
        assert torch.equal(value, two_processes[name]), name


@pytest.mark.parametrize("strategy", ["dpp", "fsdp", "deepspeed", "ddp_spawn", "ddp_fork"])
def test_what_cannot_be_followed_is_one_line(strategy, tmp_path, capsys):
    assert train([*WORDS, f"train.save_dir={tmp_path}", f"train.strategy={strategy}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    if strategy.startswith("ddp_"):
        assert line.startswith(f"error: train.strategy '{strategy}' copies this process")
    else:
        assert line.startswith("error: train.accelerator 'cpu', train.devices 1, train.num_nodes 1, train.strategy ")


class Recorded(pv.data.rows.Rows):
    """Remembers the rows that were asked for."""

    def __init__(self, num: int) -> None:
        self.shape, self.dtype, self.asked = (num, 4), torch.float32, list[int]()

    def read(self, numbers: torch.Tensor, epoch: int = 0) -> torch.Tensor:
        self.asked += numbers.tolist()
        return numbers[:, None].expand(-1, 4).float()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_rank_reads_only_its_rows(split, num_workers):
    asked = []
    for rank in range(3):
        rows = Recorded(30)
        data = pv.data.Dataset("numbers", "made", rows, rows, rows, num_workers=num_workers)
        rows.asked.clear()
        batches = [*data.batches(split, 4, seed=1, rank=rank, world_size=3)]
        assert sorted(rows.asked) == sorted(int(x[0]) for batch in batches for x in batch)
        asked.append(rows.asked)
    assert [len(own) for own in asked] == [10, 10, 10]
    assert sorted(number for own in asked for number in own) == [*range(30)]

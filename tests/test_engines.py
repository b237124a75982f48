"""Engines: jobs on this machine, on a Ray cluster and under submitit; what is tried again, what each job is given."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import wait
from pathlib import Path

import pytest

from pyrovae.comparison import ENGINES, Job
from pyrovae.comparison.engines import device_slots
from pyrovae.comparison.plan import RunSettings
from pyrovae.config import ConfigError

ALL = ["local", "ray", "slurm"]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """An engine, by its name."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def make(name="local", num_jobs=3, **settings):
        {"ray": lambda: pytest.importorskip("ray"), "slurm": lambda: pytest.importorskip("submitit")}.get(name, int)()
        options = {"slurm": {"cluster": "local", "timeout_min": 5}} if name == "slurm" else {}
        return ENGINES[name](RunSettings(engine=name, **options, **settings), tmp_path, num_jobs)

    return make


def job(folder: Path, name: str, code: str, **more) -> Job:
    head = f"import os, signal, sys, time\nhere, name = {str(folder)!r}, {name!r}\n"
    head += "open(f'{here}/{name}.begun', 'a').write(f'{os.getpid()}\\n')\n"
    return Job((sys.executable, "-S", "-E", "-c", head + code), folder / "logs" / f"{name}.txt", folder, **more)


def begun(folder: Path, name: str) -> list[int]:
    """The processes of a job so far."""
    file = folder / f"{name}.begun"
    return [int(line) for line in file.read_text().split()] if file.is_file() else []


def until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize("name", ALL)
def test_a_job_ends_with_its_code_and_its_last_words(name, make, tmp_path):
    with make(name, retries=0) as engine:
        futures = engine.submit(
            job(tmp_path, "good", "print('well')"),
            job(tmp_path, "bad", "print('error: no such data'); print('later'); sys.exit(3)"),
            job(tmp_path, "dead", "os.kill(os.getpid(), 9)"),
        )
        found = [(one.result().code, one.result().message) for one in futures]
    assert found == [(0, "well"), (3, "no such data"), (-9, "killed by signal 9; it said nothing")]
    assert (tmp_path / "logs" / "good.txt").read_text() == "well\n"


@pytest.mark.parametrize("name", ALL)
def test_what_dies_is_tried_again(name, make, tmp_path):
    code = "n = len(open(f'{here}/{name}.begun').readlines())\nprint('n is', n, flush=True)\nif n < 2: os.kill(os.getpid(), 9)"
    with make(name) as engine:
        (future,) = engine.submit(job(tmp_path, "killed", code))
        assert future.result().code == 0
    assert (tmp_path / "logs" / "killed.txt").read_text() == "n is 1\n=== tried again\nn is 2\n"  # it keeps what was


def test_what_is_wrong_is_not_tried_again(make, tmp_path):
    codes = [1, 2, 3, 4, 5, 6]
    with make(retries=2) as engine:
        futures = engine.submit(*[job(tmp_path, f"code{code}", f"sys.exit({code})") for code in codes])
        assert [one.result().code for one in futures] == codes
    assert [len(begun(tmp_path, f"code{code}")) for code in codes] == [3, 1, 1, 1, 3, 3]


@pytest.mark.parametrize("name", ALL)
def test_jobs_end_with_the_engine(name, make, tmp_path):
    """First by SIGTERM; what has not begun never does."""
    saves = "signal.signal(signal.SIGTERM, lambda *_: (open(f'{here}/saved', 'w').close(), sys.exit(143)))\n"
    last = job(tmp_path, "last", "")
    with make(name, jobs=1, retries=3) as engine:
        futures = engine.submit(job(tmp_path, "first", saves + "print('up', flush=True)\ntime.sleep(600)"), last)
        log = tmp_path / "logs" / "first.txt"
        until(lambda: log.is_file() and "up" in log.read_text())
    assert (tmp_path / "saved").exists()
    assert len(begun(tmp_path, "first")) == 1
    assert "tried again" not in log.read_text()  # what was asked to end is not
    assert not is_alive(*begun(tmp_path, "first"))
    assert all(one.done() for one in futures)
    if name == "local":
        assert begun(tmp_path, "last") == []
    assert list((tmp_path / "logs").glob("*.stop")) == []


def test_a_job_that_ignores_the_request_is_killed_with_what_it_started(make, tmp_path, monkeypatch):
    monkeypatch.setattr("pyrovae.comparison.engines._GRACE", 0.5)
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nif os.fork() == 0: open(f'{here}/{name}.begun', 'a').write(f'{os.getpid()}\\n')\ntime.sleep(600)"
    with make() as engine:
        engine.submit(job(tmp_path, "deaf", code))
        until(lambda: len(begun(tmp_path, "deaf")) == 2)
    until(lambda: not any(map(is_alive, begun(tmp_path, "deaf"))))


def test_a_cell_ends_with_a_parent_that_was_killed(tmp_path):
    """By SIGTERM, because its standard input closes."""
    code = "from pyrovae.cli import cell\nimport threading\nthreading.Thread(target=cell._end_with_parent, daemon=True).start()\nprint('up', flush=True)\ntime.sleep(600)"
    child = job(tmp_path, "cell", code)
    command = (sys.executable, *child.command[3:])
    script = f"from pathlib import Path\nfrom pyrovae.comparison import Job, run_job\nrun_job(Job({command!r}, Path({str(tmp_path / 'log.txt')!r}), Path({os.getcwd()!r})))"
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    until(lambda: (tmp_path / "log.txt").is_file() and "up" in (tmp_path / "log.txt").read_text(), 120)
    parent.kill()
    parent.wait()
    (pid,) = begun(tmp_path, "cell")
    until(lambda: not is_alive(pid))


def test_side_by_side(make, tmp_path):
    """Two at a time, never three."""
    code = "open(f'{here}/in', 'a').write('x')\ntime.sleep(0.3)\nn = os.path.getsize(f'{here}/in')\nopen(f'{here}/out', 'a').write('x')\nprint(n - (os.path.getsize(f'{here}/out') - 1))"
    with make(jobs=2) as engine:
        wait(engine.submit(*[job(tmp_path, f"j{i}", code) for i in range(6)]))
    found = [int((tmp_path / "logs" / f"j{i}.txt").read_text()) for i in range(6)]
    assert max(found) == 2


# What each job is given.

SHOWS = "print(os.environ.get('OMP_NUM_THREADS'), os.environ.get('CUDA_VISIBLE_DEVICES'))"


@pytest.mark.parametrize("name", ALL)
def test_threads_are_shared_unless_the_user_said(name, make, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    cases = [({"jobs": 1}, None, cores if name != "slurm" else 1)]
    cases += [({"cpus": 1}, None, 1), ({"jobs": 2, "cpus": 2}, None, 2), ({}, "7", 7)] * (name == "local")
    for settings, of_user, expected in cases:
        if of_user:
            monkeypatch.setenv("OMP_NUM_THREADS", of_user)
        with make(name, **settings) as engine:
            (one,) = engine.submit(job(tmp_path, "shows", SHOWS))
            assert one.result().message.split()[0] == str(expected), settings


@pytest.mark.parametrize(
    ("visible", "gpus", "jobs", "expected"),
    [
        ("0,1", None, 4, ["0", "1", "0", "1"]),  # in turn
        ("5,3", 1, 2, ["5", "3"]),
        ("0,1", 1, 4, ["0", "1"]),  # two of the four wait
        ("0,1", 0.5, 4, ["0", "1", "0", "1"]),
        ("0,1,2,3", 2, 3, ["0,1", "2,3"]),
        ("0,1", 0, 2, ["", ""]),
        ("0,1", None, 1, [None]),  # alone it sees all
        ("", None, 3, [None] * 3),
    ],
)
def test_devices_of_each_job(monkeypatch, visible, gpus, jobs, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = device_slots(gpus, jobs)
    assert [dict(slot).get("CUDA_VISIBLE_DEVICES") for slot in found] == expected


def test_devices_that_are_not_there(monkeypatch, make):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match=r"run.gpus: 2 for each cell, and this machine has 1; ask for less"):
        make(gpus=2)
    with pytest.raises(ConfigError, match=r"no machine of the cluster has cpus 1 and gpus 2; ask for less"):
        make("ray", cpus=1, gpus=2)
    with pytest.raises(ValueError, match="must be a share of one, or a whole number"):
        RunSettings(gpus=1.5)


def test_jobs_side_by_side_have_devices_of_their_own(monkeypatch, make, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    meets = "\nopen(f'{here}/came', 'a').write('x')\nwhile os.path.getsize(f'{here}/came') < 2: time.sleep(0.02)"
    with make(jobs=2) as engine:
        found = [
            one.result().message.split()[1] for one in engine.submit(*[job(tmp_path, n, SHOWS + meets) for n in "ab"])
        ]
        assert sorted(found) == ["0", "1"]
        again = [one.result().message.split()[1] for one in engine.submit(*[job(tmp_path, n, SHOWS) for n in "cdef"])]
    assert {*again} <= {"0", "1"}


def test_an_engine_that_is_not_installed_is_named(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"run.engine: needs ray; pip install 'pyrovae\[cluster\]'"):
        ENGINES["ray"](RunSettings(engine="ray"), Path(), 1)


# Clusters.


def test_a_cluster_of_this_machine_is_open_to_this_machine_alone(tmp_path):
    """In a process of its own: Ray reads the setting once."""
    pytest.importorskip("ray")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    code = (
        "from pathlib import Path\nfrom pyrovae.comparison import ENGINES\nfrom pyrovae.comparison.plan import RunSettings\n"
        "with ENGINES['ray'](RunSettings(engine='ray'), Path(), 1):\n"
        "    import ray; print([node['NodeManagerAddress'] for node in ray.nodes()])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['127.0.0.1']"


def test_ray_runs_fractions_of_a_device(monkeypatch, tmp_path):
    """Four jobs meet on two devices, of which each takes a half."""
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    meets = "\nopen(f'{here}/came', 'a').write('x')\nwhile os.path.getsize(f'{here}/came') < 4: time.sleep(0.02)"
    try:
        with ENGINES["ray"](RunSettings(engine="ray", gpus=0.5), tmp_path, 4) as engine:
            futures = engine.submit(*[job(tmp_path, name, SHOWS + meets) for name in "abcd"])
            assert sorted(one.result(120).message.split()[1] for one in futures) == ["0", "0", "1", "1"]
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_jobs_of_a_node_that_dies_run_on_another(monkeypatch, tmp_path):
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    waits = "while not os.path.exists(f'{here}/go'): time.sleep(0.02)\nprint('through')"
    try:
        with ENGINES["ray"](RunSettings(engine="ray", cpus=1), tmp_path, 4) as engine:
            futures = engine.submit(*[job(tmp_path, name, waits) for name in "abcd"])
            until(lambda: sum(bool(begun(tmp_path, name)) for name in "abcd") == 2)
            cluster.remove_node(other, allow_graceful=False)
            time.sleep(1)
            (tmp_path / "go").touch()
            outcomes = [one.result(120) for one in futures]
        assert [(one.code, one.message) for one in outcomes] == [(0, "through")] * 4
        assert sorted(len(begun(tmp_path, name)) for name in "abcd") == [1, 1, 1, 2]
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_job_that_slurm_preempts_is_queued_again(make, tmp_path):
    """submitit's own signal: the process ends by SIGTERM, as training does that saves, and runs again."""
    saves = "signal.signal(signal.SIGTERM, lambda *_: (open(f'{here}/saved', 'w').close(), sys.exit(143)))\n"
    code = (
        saves + "print('up', flush=True)\nwhile not os.path.exists(f'{here}/saved'): time.sleep(0.05)\nprint('went on')"
    )
    with make("slurm", retries=0) as engine:
        (future,) = engine.submit(job(tmp_path, "long", code))
        log = tmp_path / "logs" / "long.txt"
        until(lambda: log.is_file() and "up" in log.read_text())
        (pid,) = begun(tmp_path, "long")
        status = Path(f"/proc/{pid}/status").read_text()
        os.kill(int(status.split("PPid:")[1].split()[0]), signal.SIGUSR2)
        assert future.result(120).message == "went on"
    assert len(begun(tmp_path, "long")) == 2
    assert "=== tried again" in log.read_text()


def test_slurm_is_asked_for_what_the_file_says(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    asked = {}
    monkeypatch.setattr(submitit.AutoExecutor, "update_parameters", lambda self, **values: asked.update(values))
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 2))
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    run = RunSettings(engine="slurm", jobs=5, cpus=4, gpus=0.5, slurm={"partition": "gpu", "time": "2:00:00"})
    with ENGINES["slurm"](run, tmp_path, 20):
        pass
    assert asked == {
        "name": "pyrovae", "cpus_per_task": 4, "gpus_per_node": 1,
        "slurm_partition": "gpu", "slurm_time": "2:00:00", "slurm_array_parallelism": 5,
    }  # fmt: skip
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"run.slurm: "):
        ENGINES["slurm"](RunSettings(engine="slurm", slurm={"cluster": "local", "partitoin": "gpu"}), tmp_path, 1)

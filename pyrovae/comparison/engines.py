"""Where cells run: on this machine, on a Ray cluster or under SLURM.

A cell is a process of its own wherever it runs; an engine says where, and answers with futures. All machines see one
file system, with the same paths.
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from ..config import ConfigError
from .plan import Cell, RunSettings

Variables = tuple[tuple[str, str], ...]  # of an environment

_GRACE = 30.0  # seconds for a training to finish its step and save, before it is killed
_POLL = 0.1  # seconds
_FINAL = {0, 2, 3, 4}  # exit codes: done; configuration, data or checkpoint wrong, as they would be again
_AGAIN = "=== tried again"


@dataclass(frozen=True)
class Job:
    """A process to run."""

    command: Sequence[str]
    log: Path  # for all that it prints
    folder: Path  # to run it in
    variables: Variables = ()

    @property
    def stop(self) -> Path:
        """Whoever makes this file asks the process to save and end, wherever it runs."""
        return self.log.with_suffix(".stop")


class Outcome(NamedTuple):
    """How a process ended: its exit code, negative for a signal, and the last thing that it said."""

    code: int
    message: str
    seconds: float = 0.0


class Failure(NamedTuple):
    """A cell whose process ended with an error, what it said last, and all that it said."""

    cell: Cell
    code: int
    message: str
    log: Path


def run_job(job: Job) -> Outcome:
    """Runs a process to its end, which comes with that of the caller: first by SIGTERM, so that training saves.

    Where the caller was killed, its standard input, a pipe, closes; a cell ends then, too.
    """
    start = time.monotonic()
    again = job.log.exists()
    with job.log.open("a", encoding="utf-8") as log:
        if again:
            print(_AGAIN, file=log, flush=True)
        process = subprocess.Popen(
            job.command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, cwd=job.folder,
            env={**os.environ, **dict(job.variables)},
            start_new_session=True,  # a keyboard's interrupt comes to the parent alone, which passes it on
        )  # fmt: skip
    try:
        while process.poll() is None and not job.stop.exists():
            time.sleep(_POLL)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it started
        process.wait()
        process.stdin.close()  # type: ignore[union-attr]
    code, text = process.returncode, job.log.read_text(encoding="utf-8", errors="replace").rpartition(_AGAIN)[2]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    killed = f"killed by signal {-code}; " if code < 0 else ""
    return Outcome(code, killed + "; ".join(errors or lines[-1:] or ["it said nothing"]), time.monotonic() - start)


def _preempted(job: Job) -> Any:
    """What submitit queues in place of a job that SLURM preempts: the cell goes on from its checkpoint."""
    from submitit.helpers import DelayedSubmission  # noqa: PLC0415

    return DelayedSubmission(run_job, job)


run_job.checkpoint = _preempted  # type: ignore[attr-defined]


class Engine:
    """Runs jobs, `num_jobs` in all, on this machine: threads wait for processes. As a context: all have ended after it.

    A `ConfigError` says what this machine or cluster does not have.
    """

    losses: tuple[type[Exception], ...] = ()  # what `result` raises of a job that is lost with its machine

    def __init__(self, run: RunSettings, folder: Path, num_jobs: int) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._set_up(run, run.jobs or 1, cores)
        self._slots: SimpleQueue[Variables] = SimpleQueue()
        for devices in device_slots(run.gpus, self.jobs):
            self._slots.put(devices)

    def _set_up(self, run: RunSettings, jobs: int, cores: int, threads: int = 0) -> None:
        self.run, self.jobs, self.cpus = run, jobs, run.cpus or max(cores // jobs, 1)
        self._pool = ThreadPoolExecutor(max(threads, jobs))
        self._given: dict[Future, tuple[Job, list[Any]]] = {}  # each with its attempts

    def submit(self, *jobs: Job) -> list[Future[Outcome]]:
        """A future for each job; one that dies, or is lost, is tried again `run.retries` times."""
        # Threads of one process fight for the cores with those of the next; what the user set stays.
        threads = () if "OMP_NUM_THREADS" in os.environ else (("OMP_NUM_THREADS", str(self.cpus)),)
        jobs = tuple(replace(job, variables=(*threads, *job.variables)) for job in jobs)
        for job in jobs:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            job.log.unlink(missing_ok=True)
            job.stop.unlink(missing_ok=True)
        given = [*zip(jobs, self._begun(jobs), strict=True)]
        futures = [self._pool.submit(self._attempts, *one) for one in given]
        self._given.update(zip(futures, given, strict=True))
        return futures

    def _begun(self, jobs: Sequence[Job]) -> list[list[Any]]:
        """For each job a list of those attempts that are begun already."""
        return [[] for _ in jobs]

    def _attempts(self, job: Job, attempts: list[Any]) -> Outcome:
        for i in range(self.run.retries + 1):
            if i == len(attempts):
                attempts.append(self._begin(job))
            try:
                outcome = attempts[i].result()
            except self.losses as error:
                outcome = Outcome(-signal.SIGKILL, f"lost: {type(error).__name__}: {' '.join(str(error).split())}")
            if outcome.code in _FINAL or job.stop.exists():
                break
        return outcome

    def _begin(self, job: Job) -> Any:
        """Something that waits for the outcome (`result`), and can take back a job that has not begun (`cancel`)."""

        def result() -> Outcome:
            devices = self._slots.get()
            try:
                return run_job(replace(job, variables=(*job.variables, *devices)))
            finally:
                self._slots.put(devices)

        return SimpleNamespace(result=result, cancel=lambda: None)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: Any) -> None:
        for future, (job, attempts) in self._given.items():
            if not future.done():
                job.stop.touch()
                if attempts and not job.log.exists():
                    attempts[-1].cancel()
        self._pool.shutdown(cancel_futures=True)
        for job, _attempts in self._given.values():
            job.stop.unlink(missing_ok=True)


class RayEngine(Engine):
    """Runs jobs as Ray's tasks: on the cluster at `RAY_ADDRESS`, else on one that is started on this machine."""

    def __init__(self, run: RunSettings, folder: Path, num_jobs: int) -> None:
        if "RAY_ADDRESS" not in os.environ:  # this makes Ray, whose ports know no password, listen to loopback alone
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        ray = self._ray = _imported("ray")
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # so that workers need not import torch
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        where = {} if "RAY_ADDRESS" in os.environ else {"address": "local", "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", **where)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        jobs = run.jobs or max(num_jobs, 1)  # Ray knows how many fit
        self._set_up(run, jobs, int(nodes[0].get("CPU", 1)) if where and run.jobs else jobs)
        self.losses = (ray.exceptions.RayError,)
        gpus = float(any("GPU" in node for node in nodes)) if run.gpus is None else run.gpus
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= gpus for node in nodes):
            ray.shutdown()
            raise ConfigError(f"run: no machine of the cluster has cpus {self.cpus} and gpus {gpus:g}; ask for less")
        self._task = ray.remote(num_cpus=self.cpus, num_gpus=gpus, max_retries=0)(run_job)

    def _begin(self, job: Job) -> Any:
        ref = self._task.remote(job)
        return SimpleNamespace(result=partial(self._ray.get, ref), cancel=partial(self._ray.cancel, ref))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._ray.shutdown()


class SlurmEngine(Engine):
    """Runs jobs under SLURM, those that are submitted together as an array, by submitit."""

    def __init__(self, run: RunSettings, folder: Path, num_jobs: int) -> None:
        submitit = _imported("submitit")
        _imported("cloudpickle").register_pickle_by_value(sys.modules[__name__])  # as for Ray
        self._set_up(run, run.jobs or max(num_jobs, 1), 1, threads=num_jobs)  # all wait; the array says how many run
        self.losses = (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError)
        given = {"array_parallelism": self.jobs, **run.slurm}
        general = {"name": "pyrovae", "cpus_per_task": self.cpus, "gpus_per_node": math.ceil(run.gpus or 0)}
        try:
            self._executor = submitit.AutoExecutor(folder / "slurm", cluster=given.pop("cluster", "slurm"))
            self._executor.update_parameters(**general, **{f"slurm_{key}": value for key, value in given.items()})
        except (RuntimeError, NameError, ValueError, TypeError) as error:
            raise ConfigError(f"run.slurm: {' '.join(str(error).split())}") from error

    def _begun(self, jobs: Sequence[Job]) -> list[list[Any]]:
        return [[attempt] for attempt in self._executor.map_array(run_job, jobs)]

    def _begin(self, job: Job) -> Any:
        return self._executor.submit(run_job, job)


ENGINES = {"local": Engine, "ray": RayEngine, "slurm": SlurmEngine}


def _imported(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise ConfigError(f"run.engine: needs {name}; pip install 'pyrovae[cluster]'") from error


def device_slots(gpus: float | None, num_jobs: int) -> list[Variables]:
    """What each of the jobs side by side sets, so that it has devices of its own, or its share of one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [*map(str, range(torch.cuda.device_count()))] if visible is None else [*filter(None, visible.split(","))]
    if gpus is None and (num_jobs == 1 or not devices):
        return [()] * num_jobs
    if gpus is None:  # in turn
        groups = devices * num_jobs
    elif gpus < 1:
        groups = devices * int(1 / gpus) if gpus else [""] * num_jobs
    else:
        size = int(gpus)
        groups = [",".join(devices[i : i + size]) for i in range(0, len(devices) - size + 1, size)]
    if not groups:
        raise ConfigError(f"run.gpus: {gpus:g} for each cell, and this machine has {len(devices)}; ask for less")
    return [(("CUDA_VISIBLE_DEVICES", group),) for group in groups[:num_jobs]]


def run_cells(
    cells: Sequence[Cell], jobs: Sequence[Job], engine: Engine, *, num_done: int = 0, say: Callable[[str], None]
) -> Iterator[Failure]:
    """Runs a job for each cell, says how each ended, and gives those that failed; they do not stop the others."""
    futures = dict(zip(engine.submit(*jobs), zip(cells, jobs, strict=True), strict=True))
    for num, future in enumerate(as_completed(futures), num_done + 1):
        (cell, job), outcome = futures[future], future.result()
        how = "failed" if outcome.code else "done"
        say(f"{cell.name}: {how} in {outcome.seconds:.0f} s ({num} of {num_done + len(cells)} cells)")
        if outcome.code:
            yield Failure(cell, outcome.code, outcome.message, job.log)

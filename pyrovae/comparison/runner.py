"""Runs cells, each in a process of its own."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tqdm import tqdm

from .plan import Cell

_GRACE = 30.0  # seconds for a training to finish its step and save, before it is killed
_POLL = 0.1  # seconds
_REFRESH = 100  # polls between two looks of the bar's clock


@dataclass(frozen=True)
class Failure:
    """A cell whose process ended with an error.

    Attributes:
        cell: Which.
        code: Exit code.
        message: The last thing that it said.
        log: All that it said.
    """

    cell: Cell
    code: int
    message: str
    log: Path


@dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen
    log: Path
    since: float


def run_cells(
    cells: Sequence[Cell],
    command: Callable[[Cell], Sequence[str]],
    logs: Path,
    *,
    num_jobs: int = 1,
    num_done: int = 0,
    progress: bool = True,
    held_files: Sequence[int] = (),
) -> list[Failure]:
    """Runs cells side by side; one that fails does not stop the others.

    Processes end with this function, however it ends: they are asked to, so that training saves where it is.

    Args:
        cells: In order.
        command: What to run for a cell.
        logs: Folder for what the processes print.
        num_jobs: Processes at a time.
        num_done: Cells done before, for the progress bar.
        progress: Show it.
        held_files: Descriptors that the processes inherit: a lock on the folder is theirs too.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running, failures = list(cells), list[_Running](), list[Failure]()
    polls = 0
    bar = tqdm(total=num_done + len(cells), initial=num_done, unit="cell", desc="cells", disable=not progress)
    try:
        while waiting or running:
            while waiting and len(running) < num_jobs:
                cell = waiting.pop(0)
                running.append(_start(cell, command(cell), logs, num_jobs, held_files))
                _show(bar, running, waiting)
            ended = [job for job in running if job.process.poll() is not None]
            for job in ended:
                running.remove(job)
                failures += _failure(job)
                seconds, how = perf_counter() - job.since, "failed" if job.process.returncode else "done"
                bar.update()
                _show(bar, running, waiting)
                if progress:
                    tqdm.write(f"{job.cell.name}: {how} in {seconds:.0f} s")
            if not ended:
                time.sleep(_POLL)
                polls += 1
                if polls % _REFRESH == 0:
                    bar.refresh()
    finally:
        _end(running)
        bar.close()
    return failures


def _start(cell: Cell, command: Sequence[str], logs: Path, num_jobs: int, held_files: Sequence[int]) -> _Running:
    path = logs / f"{cell.file_name}.txt"
    # Threads of one process would fight for the cores with those of the next.
    environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if num_jobs > 1 else {})}
    with path.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=held_files,
            start_new_session=True,  # a keyboard's interrupt comes to us alone, and we pass it on
        )
    return _Running(cell, process, path, perf_counter())


def _show(bar: tqdm, running: Sequence[_Running], waiting: Sequence[Cell]) -> None:
    names = "; ".join(job.cell.name for job in running) or "-"
    bar.set_postfix_str(f"{len(running) + len(waiting)} left, now {names}")


def _failure(job: _Running) -> list[Failure]:
    code = job.process.returncode
    if code == 0:
        return []
    lines = [line.strip() for line in job.log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = errors or [line for line in lines if line][-1:] or ["it said nothing"]
    killed = f"killed by signal {-code}; " if code < 0 else ""
    return [Failure(job.cell, code, killed + "; ".join(said), job.log)]


def _end(running: Sequence[_Running]) -> None:
    for job in running:
        job.process.terminate()
    deadline = perf_counter() + _GRACE
    for job in running:
        with suppress(subprocess.TimeoutExpired):
            job.process.wait(max(deadline - perf_counter(), 0.0))
        with suppress(ProcessLookupError):
            os.killpg(job.process.pid, signal.SIGKILL)  # and what it started
        job.process.wait()

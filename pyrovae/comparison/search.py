"""The search for values with which a scheme does best, by Optuna; each trial is a cell."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from ..config import ConfigError, apply_override, check, to_yaml
from ..files import replacing
from ..runs.load import read_summary
from .engines import Engine, Job
from .plan import Cell, Range, SearchSettings, cell_of, slug
from .results import read_metrics
from .state import check_unchanged

_POLL = 1.0  # seconds between two looks at how trials do


class Search:
    """Trials of one scheme, all of one seed, kept in `out/search.journal`, so that a search goes on.

    A `ConfigError` names a key or value that training refuses, or trials in `out` of another configuration.
    """

    def __init__(self, scheme: str, values: Mapping[str, Any], settings: SearchSettings, out: Path, seed: int) -> None:
        self.scheme, self.values, self.settings, self.out, self.seed = scheme, values, settings, out, seed
        self._space, kinds = dict[str, Any](), _optuna().distributions
        for key, choices in settings.space.items():
            ends = [choices.low, choices.high] if isinstance(choices, Range) else choices
            if isinstance(choices, Range):
                kind = kinds.IntDistribution if {*map(type, ends)} == {int} else kinds.FloatDistribution
                self._space[key] = kind(*ends, log=choices.log)
            else:
                self._space[key] = kinds.CategoricalDistribution(choices)
            for value in ends:  # does training take it?
                self.cell(0, {key: value}, seed)

    @cached_property
    def study(self) -> Any:
        """Optuna's study: as the folder has it, or new."""
        optuna, after, path = _optuna(), self.settings.prune_after, str(self.out / "search.journal")
        journal = optuna.storages.journal
        backend = journal.JournalFileBackend(path, lock_obj=journal.JournalFileOpenLock(path))
        pruner = optuna.pruners.NopPruner() if after is None else optuna.pruners.MedianPruner(3, after)
        study = optuna.create_study(
            study_name=self.scheme, storage=optuna.storages.JournalStorage(backend), direction="maximize",
            pruner=pruner, load_if_exists=True,
        )  # fmt: skip
        study.sampler = optuna.samplers.TPESampler(seed=self.seed + len(study.trials), n_startup_trials=5)
        check_unchanged(self.of_trial(trial) for trial in study.trials)
        return study

    def cell(self, number: int, chosen: Mapping[str, Any], seed: int) -> Cell:
        """The cell of a trial."""
        return cell_of(f"{self.scheme}-trial_{number}", seed, self.with_values(chosen), self.out / "cells")

    def with_values(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """The scheme's sections with these: `{"guide.refiner.lr": 0.1}`."""
        values = {**self.values}
        for key, value in chosen.items():
            apply_override(values, f"{key}={yaml.safe_dump(value, default_flow_style=True)}")
        return values

    def of_trial(self, trial: Any) -> Cell:
        """The cell that a trial trains."""
        return self.cell(trial.number, trial.params, self.seed)

    @property
    def done(self) -> list[Any]:
        """Trials that have come to their end, best first."""
        begun = (self.out / "search.journal").is_file()
        found = [trial for trial in self.study.trials if trial.state.name == "COMPLETE"] if begun else []
        return sorted(found, key=lambda trial: -trial.value)

    def told(self) -> str:
        """The best values found, as a sentence; empty if there are none."""
        if not self.done:
            return ""
        best, values = self.done[0], []
        for key, value in best.params.items():
            values.append(f"{key} = {value:.3g}" if isinstance(value, float) else f"{key} = {value}")
        num, key = len(self.study.trials), self.settings.maximize
        return f"Of {num} trials of {self.scheme}, {', '.join(values)} is best ({key} {best.value:.2f})."

    def run(self, engine: Engine, job_of: Callable[[Cell], Job], say: Callable[[str], None]) -> list[str]:
        """Runs the trials that are left, as many side by side as the engine does; returns a line for each failed."""
        running, failed = dict[Any, _Running](), list[str]()
        unfinished = [trial for trial in self.study.trials if trial.state.name == "RUNNING"]  # of an interrupted search
        while True:
            while len(running) < engine.jobs and (unfinished or len(self.study.trials) < self.settings.trials):
                old = unfinished.pop()._trial_id if unfinished else None
                trial = self.study.ask(self._space) if old is None else _optuna().trial.Trial(self.study, old)
                job = job_of(self.of_trial(trial))
                running[engine.submit(job)[0]] = _Running(self, trial, job)
            if not running:
                return failed
            for future in wait(running, timeout=_POLL, return_when=FIRST_COMPLETED).done:
                one, outcome = running.pop(future), future.result()
                say(f"{one.name}: {(how := one.ended(outcome.code))} in {outcome.seconds:.0f} s")
                if how == "failed":
                    failed.append(f"{one.name}: {outcome.message}; see {one.job.log}")
                    say(failed[-1])
            for one in running.values():
                one.look()


class _Running:
    """A trial whose cell runs."""

    def __init__(self, search: Search, trial: Any, job: Job) -> None:
        self.study, self.key, self.trial, self.job = search.study, search.settings.maximize, trial, job
        self.cell, self.pruned = search.of_trial(trial), False
        drawn = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.params.items())
        self.name = f"{search.scheme}, trial {trial.number} ({drawn})"
        self.seen = {*search.study.trials[trial.number].intermediate_values}

    def look(self) -> None:
        """Reports validations so far, and asks the cell to end if others did better by then."""
        for row in read_metrics(self.cell):
            if row.get("epoch") and row.get(self.key) and (epoch := int(row["epoch"])) not in self.seen:
                self.seen.add(epoch)
                self.trial.report(float(row[self.key]), epoch)
        if not self.pruned and self.seen and self.trial.should_prune():
            self.pruned = True
            self.job.stop.touch()

    def ended(self, code: int) -> str:
        """Tells the study how it ended."""
        summary, states = read_summary(self.cell.run_dir), _optuna().trial.TrialState
        if code == 0 and self.key not in summary:
            numbers = [name for name, value in summary.items() if isinstance(value, float)]
            raise ConfigError(f"search.maximize: {self.key} is not in summary.json; valid: {', '.join(numbers)}")
        if code == 0 and math.isfinite(summary[self.key]):
            self.look()
            self.study.tell(self.trial, summary[self.key])
            return f"{self.key} {summary[self.key]:.2f}"
        self.study.tell(self.trial, state=states.PRUNED if self.pruned else states.FAIL)
        return "pruned" if self.pruned else "failed"


def tuned(cells: Iterable[Cell], searches: Sequence[Search]) -> list[Cell]:
    """Cells with the best values found for their scheme; that of the seed of the search is the trial itself."""
    found = {search.scheme: (search, search.done[0]) for search in searches if search.done}

    def of(cell: Cell) -> Cell:
        search, best = found[cell.scheme]
        return replace(search.cell(best.number, best.params, cell.seed), scheme=cell.scheme)

    return [of(cell) if cell.scheme in found else cell for cell in cells]


def write_trials(searches: Sequence[Search], out: Path) -> None:
    """Writes `trials.csv`, `figures/search.png`, and of each scheme the best configuration, for `scripts/train.py`."""
    space, maximized = searches[0].settings.space, searches[0].settings.maximize
    figure = Figure((3.2 * len(space) + 1.5, 3.2), layout="constrained")
    axes = figure.subplots(1, len(space), sharey=True, squeeze=False)[0]
    rows: list[list[Any]] = [["scheme", "trial", "state", maximized, "epochs", *space]]
    for search in searches:
        for trial in search.study.trials:
            told = [trial.number, trial.state.name.lower(), trial.value, len(trial.intermediate_values)]
            rows.append([search.scheme, *told, *(trial.params.get(key) for key in space)])
        done = search.done
        for axis, key in zip(axes, space, strict=True):
            axis.plot([trial.params[key] for trial in done], [trial.value for trial in done], "o", label=search.scheme)
        if done:
            path = out / ("best.yaml" if len(searches) == 1 else f"best-{slug(search.scheme)}.yaml")
            best = check(search.with_values({**done[0].params, "train.name": path.stem}))
            with replacing(path) as part:
                part.write_text(f"# python scripts/train.py --config {path}\n{to_yaml(best)}", encoding="utf-8")
    with replacing(out / "trials.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    for axis, (key, choices) in zip(axes, space.items(), strict=True):
        axis.set_xlabel(key)
        if isinstance(choices, Range) and choices.log:
            axis.set_xscale("log")
    axes[0].set_ylabel(maximized)
    axes[-1].legend()
    (out / "figures").mkdir(exist_ok=True)
    figure.savefig(out / "figures" / "search.png", dpi=150)


def _optuna() -> Any:
    try:
        import optuna  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("search: needs optuna; pip install 'pyrovae[cluster]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna

"""`scripts/compare.py`."""

import argparse
import json
import re
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import EXIT_CODES, allow_argument, at_least, command_parser, guarded

if TYPE_CHECKING:
    from ..comparison import Cell, ComparisonSettings, Failure, Job

_EXAMPLES = """
python scripts/compare.py --config configs/compare/quick.yaml
python scripts/compare.py --config configs/compare/quick.yaml --dry-run
python scripts/compare.py --config configs/compare/quick.yaml run.engine=ray --jobs 4
python scripts/compare.py --config configs/compare/search.yaml search.trials=20
python scripts/compare.py runs/default/version_0 runs/ivae/version_0 evaluation.num_data=200
"""
_DESCRIPTION = (
    "Train and evaluate inference schemes over one model and data set, or take runs that are there, and write tables, "
    "figures and one page. Finished cells are not run again, interrupted ones go on."
)
_Problems = list[tuple[int, str]]  # exit codes, and what is said


def main(argv: Sequence[str] | None = None) -> int:
    """Compares inference schemes; returns the exit code."""
    parser = command_parser("compare.py", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of the comparison")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: runs/compare/<name>)")
    parser.add_argument("--jobs", type=at_least(1), metavar="N", help="cells side by side; short for run.jobs=N")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and stop")
    parser.add_argument("--report", action="store_true", help="run nothing; write the report of what is there")
    allow_argument(parser)
    parser.add_argument("words", nargs="*", metavar="RUN_DIR | key=value", help="finished runs, or overrides")
    args = parser.parse_intermixed_args(argv)
    # A folder is a run, whatever its name.
    args.overrides = [word for word in args.words if re.match(r"[A-Za-z_][\w.]*=", word) and not Path(word).is_dir()]
    args.runs = [Path(word) for word in args.words if word not in args.overrides]
    args.overrides += [f"run.jobs={args.jobs}"] if args.jobs else []
    if bool(args.config) == bool(args.runs):
        parser.error("name either --config FILE or finished runs")
    problems: _Problems = []
    before = signal.signal(signal.SIGTERM, _terminate)
    code = guarded(lambda: _compare(args, problems), args.debug)
    signal.signal(signal.SIGTERM, before)
    for _, text in problems:
        print(f"error: {text}", file=sys.stderr)
    if code == 0 and problems:
        return problems[0][0] if problems[0][0] in EXIT_CODES.values() else 1
    return code


def _compare(args: argparse.Namespace, problems: _Problems) -> None:
    # Imported late: torch and Lightning take seconds, and --help should not.
    from .. import comparison as c  # noqa: PLC0415

    settings, schemes, planned, out = _planned(args)
    search, run = settings.search, settings.run
    say: Callable[[str], None] = (lambda text: None) if args.quiet else partial(print, flush=True)
    searches = [c.Search(name, values, search, out, settings.seeds[0]) for name, values in schemes.items() if search]

    def is_done(cell: "Cell") -> bool:
        return c.state(cell.run_dir, settings.evaluation) == "done"

    cells = c.tuned(planned, searches)
    c.check_unchanged(cells)
    if not args.report:
        c.check_builds(cell for cell in cells if c.state(cell.run_dir, {}) in ("new", "interrupted"))
    if args.dry_run:
        first = f"{search.trials} trials of each scheme, then " if search else ""
        print(f"{out}: {first}{c.described(cells, settings.evaluation)}")
        return
    failures: list[Failure] = []
    jobs = run.jobs or 1
    with c.locked(out / ".lock"):
        try:
            if not args.report and (searches or not all(map(is_done, cells))):
                most = max(len(cells), search.trials if search else 0)
                with c.ENGINES[run.engine](run, out, most) as engine:
                    for one in searches:
                        failed = one.run(engine, lambda cell: _job(cell, None, args, out), say)
                        problems += [] if one.done else [(1, text) for text in failed]
                    cells = c.tuned(planned, searches)
                    todo = [cell for cell in cells if not is_done(cell)]
                    say(f"{len(todo)} of {len(cells)} cells to run; what they print is in {out / 'logs'}")
                    jobs = engine.jobs
                    work = [_job(cell, settings.evaluation, args, out) for cell in todo]
                    for failure in c.run_cells(todo, work, engine, num_done=len(cells) - len(todo), say=say):
                        failures.append(failure)
        finally:  # an interrupt, too, leaves the report of what is there
            if searches:
                c.write_trials(searches, out)
            cells = c.tuned(planned, searches)
            results, unreadable = c.read_results(filter(is_done, cells))
            problems += [(one.code, f"{one.cell.name}: {one.message}; see {one.log}") for one in failures]
            problems += [(EXIT_CODES["OSError"], text) for text in unreadable]
            if results or failures or unreadable:
                how = {**run.model_dump(exclude={"slurm"}), "jobs": jobs}
                c.write_report(
                    out, results, title=out.name, lead=[text for one in searches if (text := one.told())],
                    failures=failures, unreadable=unreadable,
                    published=settings.published, settings=_description(settings, cells, args), run=how,
                )  # fmt: skip
                print((out / "table.md").read_text(encoding="utf-8"))
                print(f"report    {out / 'report.html'}, of {len(results)} of {len(cells)} cells")
            else:
                print(f"no results in {out}")


def _planned(args: argparse.Namespace) -> "tuple[ComparisonSettings, dict[str, dict[str, Any]], list[Cell], Path]":
    """Settings, the sections of each scheme (none of runs that are there), cells, and the folder to write."""
    from .. import comparison as c  # noqa: PLC0415
    from ..config import ConfigError, apply_override  # noqa: PLC0415

    home = Path("runs") / "compare"
    if args.config:
        out = args.out or home / args.config.stem
        settings, for_cells = c.load_settings(args.config, args.overrides)
        schemes = c.schemes_of(settings, for_cells, args.config)
        return settings, schemes, c.plan(settings, schemes, out), out
    values: dict[str, Any] = {"evaluation": {}, "dataset": {}}
    for override in args.overrides:
        if not override.startswith(("evaluation.", "dataset.", "run.")):
            raise ConfigError(f"{override}: these runs are trained; evaluation., dataset. and run. values can be set")
        apply_override(values, override)
    cells = c.cells_of_runs(args.runs, args.allow)
    del values["dataset"]  # for the evaluation of each cell
    given = values["evaluation"].keys()
    settings = c.checked_settings({**values, "cells": {cell.scheme: {} for cell in cells}})
    # What is not given may be as it is: an evaluation that is there is not made again for the sake of defaults.
    evaluation = {name: value for name, value in settings.evaluation.items() if name in given}
    out = args.out or home / "_and_".join(dict.fromkeys(c.slug(cell.scheme) for cell in cells))[:100]
    return settings.model_copy(update={"evaluation": evaluation}), {}, cells, out


def _job(cell: "Cell", evaluation: dict[str, Any] | None, args: argparse.Namespace, out: Path) -> "Job":
    """What to run for a cell; writes its configuration for training."""
    from ..comparison import Job  # noqa: PLC0415
    from ..config import to_yaml  # noqa: PLC0415

    path = out / "configs" / f"{cell.file_name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# python scripts/train.py --config {path}\n{to_yaml(cell.config)}", encoding="utf-8")
    words = ["--run", str(cell.run_dir), "--config", str(path), "--evaluation", json.dumps(evaluation), "--tied"]
    words += [word for module in cell.config.own_modules for word in ("--allow", module)]
    words += [text for text in args.overrides if text.startswith("dataset.")]  # a folder of data that has moved
    command = (sys.executable, "-m", "pyrovae.cli.cell", *words)
    return Job(command, out / "logs" / f"{cell.file_name}.txt", Path.cwd())


def _description(settings: "ComparisonSettings", cells: "Sequence[Cell]", args: argparse.Namespace) -> str:
    import yaml  # noqa: PLC0415

    shown = {"evaluation", "run"} if args.runs else {*type(settings).model_fields} - {"published"}
    what = settings.model_dump(mode="json", include=shown, exclude_none=True)
    what |= {"overrides": args.overrides, "folders": {cell.name: str(cell.run_dir) for cell in cells}}
    return yaml.safe_dump(what, sort_keys=False, allow_unicode=True)


def _terminate(number: int, frame: object) -> None:
    """SIGTERM ends the comparison as Ctrl-C does, so that its processes end with it."""
    from ..training.fit import TerminatedError  # noqa: PLC0415

    raise TerminatedError("terminated; the same command goes on where it was")

"""`scripts/compare.py`."""

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import EXIT_CODES, allow_argument, command_parser, guarded

if TYPE_CHECKING:
    from ..comparison import Cell, ComparisonSettings, Failure

_EXAMPLES = """
python scripts/compare.py --config configs/compare/quick.yaml
python scripts/compare.py --config configs/compare/quick.yaml --dry-run
python scripts/compare.py --config configs/compare/mnist.yaml dataset.root=data seeds=[0] --jobs 2
python scripts/compare.py runs/default/version_0 runs/ivae/version_0 evaluation.num_data=200
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Compares inference schemes; returns the exit code."""
    description = (
        "Train and evaluate inference schemes over one model and data set, or take runs that are there, and write "
        "tables, figures and one page. Finished cells are not run again, interrupted ones go on."
    )
    parser = command_parser("compare.py", description, _EXAMPLES)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of the comparison")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default: runs/compare/<name>)")
    parser.add_argument("--jobs", type=int, metavar="N", help="cells side by side (default: the file's jobs, or 1)")
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and stop")
    allow_argument(parser)
    parser.add_argument("words", nargs="*", metavar="RUN_DIR | key=value", help="finished runs, or overrides")
    args = parser.parse_intermixed_args(argv)
    args.overrides = [word for word in args.words if "=" in word]
    args.runs = [Path(word) for word in args.words if "=" not in word]
    if bool(args.config) == bool(args.runs):
        parser.error("name either --config FILE or finished runs")
    if args.jobs is not None and args.jobs < 1:
        parser.error(f"--jobs must be >= 1, got {args.jobs}")
    failures: list[Failure] = []
    with _terminable():
        code = guarded(lambda: failures.extend(_compare(args)), args.debug)
    for failure in failures:
        print(f"error: {failure.cell.name}: {failure.message}; see {failure.log}", file=sys.stderr)
    if code == 0 and failures:
        return failures[0].code if failures[0].code in EXIT_CODES.values() else 1
    return code


def _compare(args: argparse.Namespace) -> "list[Failure]":
    # Imported late: torch and Lightning take seconds, and --help should not.
    from .. import comparison as c  # noqa: PLC0415

    settings, cells, out = _planned(args)
    c.check_unchanged(cells)
    states = {cell.file_name: c.state(cell.run_dir, settings.evaluation) for cell in cells}
    todo = [cell for cell in cells if states[cell.file_name] != "done"]
    data = c.check_builds([cell for cell in todo if states[cell.file_name] != "trained"])
    num_jobs = args.jobs or settings.jobs
    if args.dry_run:
        print(f"{out}: {c.described(cells, states, data, num_jobs=num_jobs)}")
        return []
    with c.locked(out) as lock:
        commands = {cell.file_name: _command(cell, settings.evaluation, args, out) for cell in todo}
        failures = c.run_cells(
            todo,
            lambda cell: commands[cell.file_name],
            out / "logs",
            num_jobs=num_jobs,
            num_done=len(cells) - len(todo),
            progress=not args.quiet,
            held_files=[lock],
        )
        failed = [failure.cell for failure in failures]
        results = [c.read_result(cell) for cell in cells if cell not in failed]
        title, what = out.name, _description(settings, cells, args)
        c.write_report(out, results, title=title, failures=failures, published=settings.published, settings=what)
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"report    {out / 'report.html'}")
    return failures


def _planned(args: argparse.Namespace) -> "tuple[ComparisonSettings, list[Cell], Path]":
    from .. import comparison as c  # noqa: PLC0415
    from ..comparison.plan import slug  # noqa: PLC0415
    from ..config import ConfigError, apply_override  # noqa: PLC0415

    home = Path("runs") / "compare"
    if args.config:
        settings, for_cells = c.load_settings(args.config, args.overrides)
        out = args.out or home / args.config.stem
        return settings, c.plan(settings, for_cells, args.config, out), out
    values: dict[str, Any] = {"evaluation": {}}
    for override in args.overrides:
        if not override.startswith(("evaluation.", "dataset.")):
            raise ConfigError(f"{override}: these runs are trained; only evaluation. and dataset. values can be set")
        apply_override(values, override)
    cells = c.cells_of_runs(args.runs, args.allow)
    given, resolved = values["evaluation"], c.resolved_evaluation(values["evaluation"])
    # What is not given may be as it is: an evaluation that is there is not made again for the sake of defaults.
    evaluation = {name: resolved[name] for name in given}
    settings = c.ComparisonSettings(cells={cell.scheme: {} for cell in cells}, evaluation=evaluation)
    names = dict.fromkeys(slug(cell.scheme) for cell in cells)
    return settings, cells, args.out or home / "_and_".join(names)[:100]


def _command(cell: "Cell", evaluation: dict[str, Any], args: argparse.Namespace, out: Path) -> list[str]:
    """What to run for a cell; writes its configuration for training."""
    from ..config import to_yaml  # noqa: PLC0415

    path = out / "configs" / f"{cell.file_name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# python scripts/train.py --config {path}\n{to_yaml(cell.config)}", encoding="utf-8")
    files = ["--run", str(cell.run_dir), "--config", str(path)]
    overrides = [text for text in args.overrides if text.startswith("dataset.")]  # a folder of data that has moved
    files += [word for module in cell.config.own_modules for word in ("--allow", module)]
    return [sys.executable, "-m", "pyrovae.cli.cell", *files, "--evaluation", json.dumps(evaluation), *overrides]


def _description(settings: "ComparisonSettings", cells: "Sequence[Cell]", args: argparse.Namespace) -> str:
    import yaml  # noqa: PLC0415

    shown = {"evaluation"} if args.runs else {*type(settings).model_fields} - {"published"}
    what = settings.model_dump(mode="json", include=shown)
    folders = {cell.name: str(cell.run_dir) for cell in cells}
    more = {"overrides": args.overrides, "folders": folders}
    return yaml.safe_dump({**what, **more}, sort_keys=False, allow_unicode=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the comparison as Ctrl-C does, so that its processes end with it."""

    def end(number: int, frame: object) -> None:
        from ..training.fit import TerminatedError  # noqa: PLC0415

        raise TerminatedError("terminated; the same command goes on where it was")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""`scripts/evaluate.py`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from ..evaluation.settings import EvaluationSettings
from .base import allow_argument, command_parser, guarded, show_log

_DESCRIPTION = """How good is a run's posterior, and where is the loss? In nats, with standard errors.
Bounds on log p(x), the gap taken apart, trajectories of refinement, the representation and calibration, on training,
validation and test data and on data from elsewhere. Writes evaluation.json, evaluation.npz and figures/ into RUN_DIR,
and shows them in TensorBoard."""

_EXAMPLES = """
python scripts/evaluate.py runs/ivae/version_0
python scripts/evaluate.py runs/ivae/version_0 --split test --shift rotated,noised
python scripts/evaluate.py runs/ivae/version_0 --num-data 1000 --num-samples 5000 dataset.root=DIR
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates a run; returns the exit code."""
    parser = command_parser("evaluate.py", _DESCRIPTION, _EXAMPLES)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="what train left, runs/ivae/version_0 say")
    allow_argument(parser)
    _add_settings(parser)
    parser.add_argument("overrides", nargs="*", metavar="dataset.key=value", help="where the data lie now, say")
    args = parser.parse_intermixed_args(argv)
    return guarded(lambda: _evaluate(args), args.debug)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """An option for each of `EvaluationSettings`; lists are written with commas."""

    def names(text: str) -> tuple[str, ...]:
        return tuple(name for name in text.split(",") if name not in ("", "none"))

    for name, field in EvaluationSettings.model_fields.items():
        default: Any = field.default
        flag = "--" + name.replace("_", "-")
        if isinstance(default, tuple):  # --split test
            text, kind, metavar, flag = ",".join(default), names, "NAME,...", flag.removesuffix("s")
        else:
            text, kind, metavar = default, type(default), "N" if isinstance(default, int) else "NAME"
        help_text = f"{field.description} (default: {text})"
        parser.add_argument(flag, dest=name, type=kind, metavar=metavar, default=default, help=help_text)


def _evaluate(args: argparse.Namespace) -> None:
    # Imported late: Lightning and scikit-learn take seconds, and --help should not.
    from ..evaluation.table import grouped_warnings, table  # noqa: PLC0415
    from ..runs.evaluate import evaluate_run  # noqa: PLC0415

    if args.debug or not args.quiet:
        show_log()
    # Its debug messages are the tracebacks of measures that fail.
    logging.getLogger("pyrovae.evaluation").setLevel(logging.DEBUG if args.debug else logging.NOTSET)
    settings = {name: getattr(args, name) for name in EvaluationSettings.model_fields}
    given = {"overrides": args.overrides, "allow": args.allow, "progress": not args.quiet}
    result = evaluate_run(args.run_dir, **given, **settings)
    print(table(result))
    for text in grouped_warnings(result["warnings"], [*result["splits"]]):
        print(f"warning: {text}", file=sys.stderr)

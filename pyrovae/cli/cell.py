"""One cell of a comparison, in a process of its own: `python -m pyrovae.cli.cell`."""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .base import allow_argument, guarded
from .train import main as train


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is not trained, goes on with what was interrupted, evaluates; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pyrovae.cli.cell", description="Run one cell of a comparison.")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN_DIR", help="the run's folder")
    parser.add_argument("--config", type=Path, metavar="FILE", help="what to train")
    parser.add_argument("--evaluation", default="{}", metavar="JSON", help="settings of evaluate_run")
    allow_argument(parser)
    parser.add_argument("overrides", nargs="*", metavar="dataset.key=value", help="where the data lie now, say")
    args = parser.parse_intermixed_args(argv)
    settings = json.loads(args.evaluation)
    return _train(args, settings) or guarded(lambda: _evaluate(args, settings), debug=False)


def _train(args: argparse.Namespace, settings: dict) -> int:
    from ..comparison import state  # noqa: PLC0415 - imports much

    found = state(args.run, settings)
    if found in ("trained", "done"):
        return 0
    if found == "interrupted":
        return train(
            ["--resume", str(args.run), "--quiet", *(f"--allow={name}" for name in args.allow), *args.overrides]
        )
    if args.run.exists():
        shutil.rmtree(args.run)  # it never came to its first checkpoint, and training would take the next version
    return train(["--config", str(args.config), "--quiet", *args.overrides])


def _evaluate(args: argparse.Namespace, settings: dict) -> None:
    from ..comparison import state  # noqa: PLC0415
    from ..runs.evaluate import evaluate_run  # noqa: PLC0415

    if state(args.run, settings) != "done":
        evaluate_run(args.run, overrides=args.overrides, allow=args.allow, **settings)


if __name__ == "__main__":
    sys.exit(main())

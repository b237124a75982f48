"""One cell of a comparison, in a process of its own: `python -m pyrovae.cli.cell`."""

import argparse
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .base import allow_argument, guarded
from .train import main as train

_PATIENCE = 90.0  # seconds for a process before this one, whose parent died, to save and end


def main(argv: Sequence[str] | None = None) -> int:
    """Trains what is not trained, goes on with what was interrupted, evaluates; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pyrovae.cli.cell", description="Run one cell of a comparison.")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN_DIR", help="the run's folder")
    parser.add_argument("--config", type=Path, metavar="FILE", help="what to train")
    parser.add_argument("--evaluation", default="{}", metavar="JSON", help="settings of evaluate_run; null: train only")
    parser.add_argument("--tied", action="store_true", help="end, as by SIGTERM, when standard input closes")
    allow_argument(parser)
    parser.add_argument("overrides", nargs="*", metavar="dataset.key=value", help="where the data lie now, say")
    args = parser.parse_intermixed_args(argv)
    if args.tied:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    return guarded(lambda: _run(args), debug=False)


def _run(args: argparse.Namespace) -> int:
    from ..comparison import locked, state  # noqa: PLC0415 - imports much
    from ..runs.evaluate import evaluate_run  # noqa: PLC0415
    from ..runs.folder import is_rank_zero  # noqa: PLC0415

    settings: dict[str, Any] | None = json.loads(args.evaluation)
    first = is_rank_zero()  # Lightning starts this command again for each further device, to train with it
    with locked(args.run.parent / f".{args.run.name}.lock", _PATIENCE) if first else nullcontext():
        found, code = state(args.run, settings or {}), 0
        if found == "interrupted":
            allowed = [f"--allow={name}" for name in args.allow]
            code = train(["--resume", str(args.run), "--quiet", *allowed, *args.overrides])
        elif found == "new":
            if first and args.run.exists():
                shutil.rmtree(args.run)  # it came to no checkpoint, and training would take the next version
            code = train(["--config", str(args.config), "--quiet", *args.overrides])
        if first and code == 0 and settings is not None and state(args.run, settings) != "done":
            evaluate_run(args.run, overrides=args.overrides, allow=args.allow, **settings)
    return code


def _end_with_parent() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock a process forked here would inherit
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())

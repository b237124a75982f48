"""What all commands share. A failure is one line on stderr and an exit code."""

import argparse
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from types import SimpleNamespace

EXIT_CODES = {
    "ConfigError": 2,
    "SettingsError": 2,
    "DataError": 3,
    "CheckpointError": 4,
    "NumericsError": 5,
    "OSError": 6,
    "TerminatedError": 143,
}

_EPILOG = """exit codes: 0 done, 2 configuration, 3 data, 4 checkpoint, 5 numerics, 6 input/output,
130 interrupted, 143 terminated

examples:
"""


def command_parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with `--quiet` and `--debug`, which every command has; `examples` are commands to copy, a line each.

    `pyrovae train` stands in the place of `prog`, the script, here and in the examples, where that was called.
    """
    if Path(sys.argv[0]).stem in ("pyrovae", "main"):
        script, prog = prog, f"pyrovae {prog.removesuffix('.py')}"
        examples = re.sub(r"configs/(\S+)\.yaml", r"\1", examples.replace(f"python scripts/{script}", prog))
    parser = argparse.ArgumentParser(
        prog=prog, description=description, epilog=_EPILOG + indent(examples.strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what every command about one trained run takes."""
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of a run, runs/ivae/version_0 say")
    choices = ("best", "last")
    parser.add_argument("--checkpoint", choices=choices, default="best", help="best by validation (default), or last")
    allow_argument(parser)
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="default: test")
    parser.add_argument("overrides", nargs="*", metavar="dataset.key=value", help="where data lie now, if they moved")


def allow_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--allow`, the user's word that a run's folder may import a package."""
    told = "import the run's own components from here"
    parser.add_argument("--allow", metavar="PACKAGE", action="append", default=[], help=told)


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number from `least` on."""

    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"must be >= {least}, got {value}")
        return value

    return number


def guarded(job: Callable[[], int | None], debug: bool) -> int:
    """Runs `job`, with the current folder, for components of one's own, on the import path; returns the exit code."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        return job() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        code = next((EXIT_CODES[c.__name__] for c in type(error).__mro__ if c.__name__ in EXIT_CODES), None)
        if debug or code is None:  # an error nobody foresaw is a bug, and its traceback the report
            traceback.print_exc()
        if code is None:
            return 1
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return code


def show_log() -> None:
    """Prints what the package logs, compiling say, which takes seconds in which no bar moves; bars stay whole."""
    from tqdm import tqdm  # noqa: PLC0415

    above_bars = SimpleNamespace(write=lambda text: tqdm.write(text, sys.stderr, end=""), flush=lambda: None)
    log = logging.getLogger("pyrovae")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler(above_bars))

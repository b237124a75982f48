"""What all commands share. A failure is one line on stderr and an exit code."""

import argparse
import logging
import sys
import traceback
from collections.abc import Callable

EXIT_CODES = {
    "ConfigError": 2,
    "SettingsError": 2,
    "DataError": 3,
    "CheckpointError": 4,
    "NumericsError": 5,
    "OSError": 6,
    "TerminatedError": 143,
}

_EXIT_CODES_IN_WORDS = (
    "exit codes: 0 done, 2 configuration, 3 data, 4 checkpoint, 5 numerics, 6 input/output, 143 terminated"
)


def command_parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with the options that every command has: `--quiet` and `--debug`.

    Args:
        prog: Name of the script.
        description: What it does.
        examples: Commands to copy, a line each.
    """
    lines = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"{_EXIT_CODES_IN_WORDS}\n\nexamples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    return parser


def guarded(job: Callable[[], None], debug: bool) -> int:
    """Runs `job`; returns the exit code."""
    try:
        job()
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
    return 0


def show_log() -> None:
    """Prints what the package logs, compiling say, which takes seconds in which no bar moves."""
    log = logging.getLogger("pyrovae")
    log.setLevel(logging.INFO)
    log.addHandler(_AboveBars())


class _AboveBars(logging.Handler):
    """Prints messages so that progress bars stay whole."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # noqa: PLC0415

        tqdm.write(record.getMessage(), file=sys.stderr)

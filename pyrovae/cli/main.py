"""`pyrovae`, the command of an installed package."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from .. import __version__

COMMANDS = {
    "train": "train a model and a guide, from one YAML file",
    "evaluate": "measure how good a run's posterior is, and where the loss is",
    "compare": "train, evaluate and compare inference schemes, on one page",
    "sample": "draw samples, reconstructions and latent traversals from a run",
    "embed": "write λ and posterior means of a whole split to a file",
    "data": "list data sets; look at one as a model sees it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names; returns the exit code."""
    words = sys.argv[1:] if argv is None else [*argv]
    if words and words[0] in COMMANDS:
        return import_module(f".{words[0]}", __package__).main(words[1:])
    parser = argparse.ArgumentParser(
        prog="pyrovae",
        description="Variational autoencoders where the inference scheme is a part you swap.",
        epilog="commands, each with its own --help:\n" + "\n".join(f"  {n:<10}{t}" for n, t in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pyrovae {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="what to do")
    parser.parse_args(words)
    return 2  # not reached: the one word that passes is a command


if __name__ == "__main__":
    sys.exit(main())

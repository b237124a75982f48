"""Evaluate a run; `--help` tells the rest."""

import sys

from pyrovae.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())

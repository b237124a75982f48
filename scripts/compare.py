"""Train, evaluate and compare inference schemes; `--help` tells the rest."""

import sys

from pyrovae.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())

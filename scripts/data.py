"""Tell of data sets; `--help` tells the rest."""

import sys

from pyrovae.cli.data import main

if __name__ == "__main__":
    sys.exit(main())

"""Draw from a trained model; `--help` tells the rest."""

import sys

from pyrovae.cli.sample import main

if __name__ == "__main__":
    sys.exit(main())

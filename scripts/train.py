"""Train from a YAML file; `--help` tells the rest."""

import sys

from pyrovae.cli.train import main

if __name__ == "__main__":
    sys.exit(main())

"""Train from a YAML file; `--help` tells the rest."""

import sys

from pyrovae.cli import train

if __name__ == "__main__":
    sys.exit(train())

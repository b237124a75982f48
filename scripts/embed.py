"""Write λ and z of a whole split to a file; `--help` tells the rest."""

import sys

from pyrovae.cli.embed import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m rvrae_pyro``: the command line."""

import sys

from rvrae_pyro.cli.app import main

if __name__ == "__main__":
    sys.exit(main())

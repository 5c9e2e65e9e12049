"""`python -m taskfs` is the command `taskfs`."""

import sys

from taskfs.cli import main

if __name__ == "__main__":
    sys.exit(main())

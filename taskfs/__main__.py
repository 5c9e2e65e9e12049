"""`python -m taskfs` is the command `taskfs`."""

from taskfs.cli import run

if __name__ == "__main__":
    run()

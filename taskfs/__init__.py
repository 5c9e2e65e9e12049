"""taskfs: a file system of cloud simulation tasks."""

__version__ = "0.1.0"

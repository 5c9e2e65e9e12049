"""taskfs: remote simulation tasks as directories."""

__version__ = "0.1.0"

"""The tree as an fsspec file system."""

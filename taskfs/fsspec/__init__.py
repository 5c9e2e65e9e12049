"""The tree as an fsspec file system: read-only, without a mount and without FUSE."""

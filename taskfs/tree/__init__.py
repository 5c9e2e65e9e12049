"""The directory tree of a mount; knows no FUSE and no HTTP."""

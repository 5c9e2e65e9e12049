"""Find libfuse 2, which the fusepy engine needs. Loading it is left to fusepy."""

import ctypes
import ctypes.util
import os
import sys
from typing import Final

LIBFUSE_PACKAGES: Final = "apt-get install libfuse2 (libfuse2t64 on newer systems)"
# The variable that fusepy reads; without it fusepy searches with ldconfig, which takes a process.
VARIABLE: Final = "FUSE_LIBRARY_PATH"
_SONAME: Final = "libfuse.so.2"
# The names under which macFUSE, its predecessors and FUSE-T install the library.
_MAC_NAMES: Final = ("fuse", "osxfuse", "fuse-t")


def libfuse_path() -> str:
    """Return the name or path with which libfuse 2 can be loaded; empty if it is not installed."""
    if path := os.environ.get(VARIABLE):
        return path
    if sys.platform == "darwin":
        return next(filter(None, map(ctypes.util.find_library, _MAC_NAMES)), "")
    try:
        ctypes.CDLL(_SONAME)
    except OSError:
        return ctypes.util.find_library("fuse") or ""
    return _SONAME

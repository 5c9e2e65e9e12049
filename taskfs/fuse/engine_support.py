"""Whether each engine can serve a mount on this machine, and why not. Mounts nothing."""

import ctypes
import os
import re
import sys
from importlib.util import find_spec
from typing import Final

from taskfs.fuse.fusermount import MISSING, find_fusermount, why_not_set_uid
from taskfs.fuse.libfuse import LIBFUSE_PACKAGES, libfuse_path

# The oldest Linux that was tested. The kernel engine speaks the protocol of some older ones as well
# (protocol.OLDEST_MINOR).
OLDEST_LINUX: Final = (4, 18)
# The versions of libfuse that fusepy knows, as fuse_version() returns them: 2.6 to 2.9.
LIBFUSE_VERSIONS: Final = range(26, 30)


def why_not_kernel() -> str:
    """Return why the kernel engine cannot be used, with the fix; empty if it can."""
    if sys.platform != "linux":
        return "it needs Linux"
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if release and tuple(map(int, release.groups())) < OLDEST_LINUX:
        return f"it needs Linux 4.18 or newer, and this is {os.uname().release}"
    if os.geteuid() == 0:
        return ""  # root mounts with mount(2)
    program = find_fusermount()
    return MISSING if program is None else why_not_set_uid(program)


def why_not_fusepy() -> str:
    """Return why the fusepy engine cannot be used, with the fix; empty if it can."""
    if find_spec("fuse") is None:
        return "fusepy is missing: pip install fusepy==3.0.1"
    path = libfuse_path()
    if not path:
        return f"libfuse 2 is missing: {LIBFUSE_PACKAGES}"
    try:
        number = ctypes.CDLL(path).fuse_version()
    except (OSError, AttributeError):
        return f"{path} cannot be loaded: {LIBFUSE_PACKAGES}"
    if number not in LIBFUSE_VERSIONS:
        return f"{path} is version {number / 10:g}, not 2.6 to 2.9: {LIBFUSE_PACKAGES}"
    return ""

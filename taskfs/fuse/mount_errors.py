"""Why the kernel, fusermount or libfuse refused a mount, and the fix for each reason.

The texts matched here are those of the mount(2) errors of `kernel.mounting`, of libfuse 2.9, and
of the fusermount of libfuse 2 and 3.
"""

import os
import re
import shutil
from typing import Final

from taskfs.fuse.fusermount import (
    FUSE_CONF,
    FUSE_DEVICE,
    MISSING,
    PROGRAMS,
    find_fusermount,
    why_not_set_uid,
)

CONTAINER: Final = "in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN"
DEVICE_MISSING: Final = f"{FUSE_DEVICE} is missing: sudo modprobe fuse; {CONTAINER}"
# AppArmor's profile of fusermount3 (Debian 13, Ubuntu 25.04 and newer) lists where it may mount.
_CONFINED: Final = (
    "a security policy such as AppArmor's refuses it: choose a mountpoint below your home "
    "directory, /mnt, /media or /tmp, or allow this one in /etc/apparmor.d/local/fusermount3 "
    "(in a container: start it with --security-opt apparmor=unconfined)"
)
NEEDS_ALLOW_OTHER: Final = (
    f"--allow-other and --allow-root need the line user_allow_other in {FUSE_CONF}: "
    f"echo user_allow_other | sudo tee -a {FUSE_CONF}"
)

_NOT_RUNNABLE: Final = (
    "you may not run fusermount: join its group, or sudo chmod 4755 $(which fusermount)"
)

# The first row whose expression matches gives the text; special rows come before general ones.
_ROWS: Final = (
    (r"user_allow_other", NEEDS_ALLOW_OTHER),
    (
        r"/dev/fuse.*ermission",
        "you may not open /dev/fuse: sudo chmod 0666 /dev/fuse, or join its group",
    ),
    (
        r"device not found|/dev/fuse.*(No such file|No such device|Operation not permitted)",
        DEVICE_MISSING,
    ),
    (
        r"no write access to mountpoint|not owned by user",
        "{mountpoint} is not yours: choose a directory of your own, or have it given to you: "
        "sudo chown $USER {mountpoint}",
    ),
    (
        r"too many FUSE filesystems",
        "too many FUSE mounts: unmount some, or raise mount_max in /etc/fuse.conf",
    ),
    (r"mounting over filesystem type", "nothing may be mounted over {mountpoint}: choose another"),
    (r"mountpoint is not empty", "{mountpoint} is not empty: choose an empty directory"),
    (r"mount failed: Permission denied", "nothing may be mounted on {mountpoint}: " + _CONFINED),
    (
        r"mount failed: Operation not permitted",
        "the kernel refuses the mount (no CAP_SYS_ADMIN): " + CONTAINER,
    ),
)


def explain(output: str, mountpoint: str) -> str:
    """Return *output*, the last text that fusermount or libfuse printed, as one line with the fix;
    empty if there is none."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    text = "; ".join(dict.fromkeys(lines))
    if text == MISSING or "exec fusermount" in text:
        # Also where a directory of PATH may not be searched: EACCES.
        path = f"{os.environ.get('PATH', '')}:{os.defpath}"
        is_there = any(shutil.which(name, os.F_OK, path) for name in PROGRAMS)
        return _NOT_RUNNABLE if is_there else MISSING
    program = find_fusermount()
    if program and "Operation not permitted" in text and (reason := why_not_set_uid(program)):
        return reason
    for expression, fix in _ROWS:
        if re.search(expression, text):
            return fix.replace("{mountpoint}", mountpoint)
    return text

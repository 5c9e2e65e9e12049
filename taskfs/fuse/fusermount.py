"""fusermount, the set-uid program of libfuse with which ordinary users mount and unmount.

libfuse 2 calls it fusermount, libfuse 3 fusermount3; both take the same arguments.
"""

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from taskfs.errors import MountError

FUSE_DEVICE: Final = "/dev/fuse"
FUSE_CONF: Final = Path("/etc/fuse.conf")
FUSE_PACKAGES: Final = "apt-get install fuse3 (or fuse)"
PROGRAMS: Final = ("fusermount3", "fusermount")
# Directories that a service's PATH may lack.
SYSTEM_PATH: Final = "/bin:/usr/bin"
# Seconds. fusermount asks only the kernel, so a call that takes longer hangs.
COMMAND_TIMEOUT_S: Final = 20.0
MTAB_FIX: Final = "sudo ln -s /proc/self/mounts /etc/mtab"
MISSING: Final = f"fusermount is missing: {FUSE_PACKAGES}"


def find_fusermount() -> str | None:
    """Return the path of fusermount3 or fusermount; None if neither can be run."""
    for path in (None, SYSTEM_PATH):
        for name in PROGRAMS:
            if program := shutil.which(name, path=path):
                return program
    return None


def why_not_set_uid(program: str) -> str:
    """Return why an ordinary user cannot mount with the fusermount *program*, with the fix; empty
    if it is set-uid root, or the caller is root."""
    found = os.stat(program)
    if not os.geteuid() or (found.st_mode & stat.S_ISUID and found.st_uid == 0):
        return ""
    return f"{program} is not set-uid root: sudo chmod u+s {program}"


def may_allow_other() -> bool:
    """Whether fusermount lets the caller mount with the option allow_other: fuse.conf(5)."""
    if not os.geteuid():
        return True
    try:
        lines = FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return "user_allow_other" in (line.partition("#")[0].strip() for line in lines)


def run_fusermount(
    *arguments: str | Path,
    pass_fds: Sequence[int] = (),
    environment: dict[str, str] | None = None,
) -> None:
    """Run fusermount and wait for its end.

    *pass_fds* are descriptors that it inherits, *environment* replaces its environment.

    Raises:
        MountError: it is missing, does not end, or fails; the text is the one it printed.
    """
    program = find_fusermount()
    if program is None:
        raise MountError(MISSING)
    try:
        done = subprocess.run(
            [program, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            pass_fds=pass_fds,
            env=environment,
        )
    except subprocess.TimeoutExpired as exc:
        raise MountError("fusermount does not answer") from exc
    except OSError as exc:
        raise MountError(f"{program} cannot be run: {exc.strerror}") from exc
    if done.returncode:
        output = " ".join(done.stderr.split()) or f"fusermount failed ({done.returncode})"
        if re.search(r"/etc/mtab: No such file", output):
            raise MountError(f"/etc/mtab is missing: {MTAB_FIX}")
        raise MountError(output)

"""The mounts of this machine, read without asking the mounted file systems.

Linux lists them in /proc/self/mountinfo (proc(5)). Calls such as `stat` say nothing useful about a
mount whose daemon has died: they fail with ENOTCONN, and `os.path.ismount` is False. Elsewhere the
output of mount(8) is read.
"""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

FSTYPE: Final = "fuse.taskfs"
AUTOFS: Final = "autofs"  # an automounter's trigger, over which taskfs mounts
MOUNTINFO: Final = "/proc/self/mountinfo"
# Seconds. mount(8) only prints a table of the kernel: a call that takes longer hangs.
TABLE_TIMEOUT_S: Final = 5.0
_BSD_LINE: Final = re.compile(rb"(.*?) on (.*) \((.*)\)")
# The types of FUSE mounts in the table of macOS (macFUSE, FUSE-T) and FreeBSD.
_BSD_FUSE: Final = re.compile(r"(macfuse|osxfuse|fusefs|nfs)(\..*)?")


class MountEntry(NamedTuple):
    """One mount.

    `device` identifies its file system among those mounted now, and `options` are that file
    system's. `id` is the kernel's number of the mount; 0 on other systems than Linux.
    """

    mountpoint: str
    type: str
    device: str
    options: str
    id: int = 0


def mounts() -> Iterator[MountEntry]:
    """Yield the mounts in the order of the kernel's table."""
    try:
        lines = open(MOUNTINFO, "rb")  # noqa: SIM115  # closed below; names are bytes
    except FileNotFoundError:
        yield from _bsd_mounts()
        return
    with lines:
        yield from map(_parse_line, lines)


def _parse_line(line: bytes) -> MountEntry:
    """Parse a line of a process's table in proc(5)."""
    head, _, tail = line.rstrip(b"\n").partition(b" - ")
    fields, rest = head.split(b" "), tail.split(b" ")
    kind, device, options = map(os.fsdecode, (rest[0], fields[2], rest[-1]))
    return MountEntry(_unescape(fields[4]), kind, device, options, int(fields[0]))


def _bsd_mounts() -> Iterator[MountEntry]:
    """Yield the mounts that mount(8) lists as `SOURCE on MOUNTPOINT (TYPE, OPTION, …)`.

    A FUSE mount counts as taskfs if its source or its subtype is `taskfs`, because the table names
    no program.
    """
    try:
        table = subprocess.run(
            ["mount"], capture_output=True, timeout=TABLE_TIMEOUT_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return
    for line in table.splitlines():
        match = _BSD_LINE.fullmatch(line)
        if match is None:
            continue
        source, mountpoint, options = map(os.fsdecode, match.groups())
        kind, _, rest = options.partition(", ")
        fuse = _BSD_FUSE.fullmatch(kind)
        if fuse and (source == "taskfs" or fuse[2] == ".taskfs"):
            kind = FSTYPE
        yield MountEntry(mountpoint, kind, f"{source} on {mountpoint}", rest)


def mounts_on(mountpoint: Path) -> list[MountEntry]:
    """Return the mounts on *mountpoint*, the topmost last."""
    return [mount for mount in mounts() if mount.mountpoint == str(mountpoint)]


def mounted_types(mountpoint: Path) -> list[str]:
    """Return the types of the file systems mounted on *mountpoint*, the topmost last."""
    return [mount.type for mount in mounts_on(mountpoint)]


def mounted_device(mountpoint: Path) -> str:
    """Return the device of the taskfs on *mountpoint*; empty if the topmost mount is another."""
    found = mounts_on(mountpoint)
    return found[-1].device if found and found[-1].type == FSTYPE else ""


def find_copy(device: str) -> tuple[int, str] | None:
    """Return a process that has a copy of the mount of *device*, and the mountpoint of the copy.

    A mount namespace (a container) and `mount --bind` make copies. None if there is none, and on
    other systems than Linux.
    """
    with contextlib.suppress(OSError):
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            # The process may have ended.
            with contextlib.suppress(OSError), open(f"/proc/{pid}/mountinfo", "rb") as lines:
                for mount in map(_parse_line, lines):
                    if mount.device == device and mount.type == FSTYPE:
                        return pid, mount.mountpoint
    return None


def mount_id(mountpoint: str) -> int:
    """Return the kernel's number of the topmost mount on *mountpoint*; 0 if there is none."""
    found = mounts_on(Path(mountpoint))
    return found[-1].id if found else 0


def _unescape(name: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), name))


def our_mounts() -> list[str]:
    """Return the mountpoints of all taskfs mounts of this machine."""
    return [mount.mountpoint for mount in mounts() if mount.type == FSTYPE]

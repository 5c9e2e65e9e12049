"""The inotify and fanotify watches that programs hold on one mount, read from /proc.

The kernel names the inode and the device of each watch in /proc/PID/fdinfo/FD (proc(5)). Only
processes whose descriptors may be read are seen: those of the same user, and for root all of them.
"""

import os
import re
from collections.abc import Callable, Iterator
from typing import Final

PROC: Final = "/proc"
# The events that taskfs sends: IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_CREATE and IN_DELETE, which
# have the same bits in inotify(7) and fanotify(7). A watch for others only does not count.
SENT: Final = 0x2 | 0x4 | 0x8 | 0x100 | 0x200
# Programs that watch every mount, or whole trees, without a request by a user: the trash of GNOME
# and the indexers. Their watches alone cause no requests. Names as /proc/PID/comm cuts them.
BACKGROUND: Final = frozenset({"gvfsd-trash", "tracker-miner-f", "localsearch-3", "baloo_file"})
_LINKS: Final = frozenset({"anon_inode:inotify", "anon_inode:[fanotify]"})
_WATCH: Final = re.compile(
    r"^(?:inotify|fanotify) .*?\bino:([0-9a-f]+) sdev:([0-9a-f]+).*? mask:([0-9a-f]+)", re.MULTILINE
)
_WHOLE: Final = re.compile(
    r"^fanotify (?:sdev:([0-9a-f]+)|mnt_id:([0-9a-f]+)).*? mask:([0-9a-f]+)", re.MULTILINE
)


class Watches:
    """The watches of one moment. Immutable; true if there are any.

    *inodes* are the watched files and directories. With *covers_all*, a program watches the whole
    file system or mount.
    """

    def __init__(self, inodes: frozenset[int] = frozenset(), covers_all: bool = False) -> None:
        self._inodes = inodes
        self._covers_all = covers_all

    def __bool__(self) -> bool:
        return self._covers_all or bool(self._inodes)

    def __str__(self) -> str:
        return "all files" if self._covers_all else f"{len(self._inodes)} files and directories"

    def include(self, *inodes: int) -> bool:
        """Whether one of *inodes* is watched."""
        return self._covers_all or not self._inodes.isdisjoint(inodes)


EVERYTHING: Final = Watches(covers_all=True)


class WatchScanner:
    """Finds the watches on the mount with *device*, as /proc/self/mountinfo names it (`0:52`).

    *mount_id* returns the id of the mount in the same table, for watches of a whole mount. One
    thread uses it.
    """

    def __init__(self, device: str, mount_id: Callable[[], int]) -> None:
        major, minor = map(int, device.split(":"))
        self._device = major << 20 | minor  # the kernel's own form, which fdinfo shows
        self._mount_id = mount_id

    def scan(self) -> Watches:
        """Return the watches of this moment; this sends no request to any file system."""
        inodes: set[int] = set()
        for text in _fdinfos():
            for ino, device, mask in _WATCH.findall(text):
                if int(device, 16) == self._device and int(mask, 16) & SENT:
                    inodes.add(int(ino, 16))
            for device, mount, mask in _WHOLE.findall(text):
                if not int(mask, 16) & SENT:
                    continue
                if (
                    int(device, 16) == self._device
                    if device
                    else int(mount, 16) == self._mount_id()
                ):
                    return EVERYTHING
        return Watches(frozenset(inodes))


def _fdinfos() -> Iterator[str]:
    """Yield the text of fdinfo of each descriptor of inotify and fanotify."""
    own = str(os.getpid())
    for pid in os.listdir(PROC):
        if not pid.isdecimal() or pid == own:
            continue
        folder = f"{PROC}/{pid}/fd"
        try:
            numbers = os.listdir(folder)
        except OSError:  # another user's, or it has ended
            continue
        for number in numbers:
            try:
                if os.readlink(f"{folder}/{number}") in _LINKS:
                    if _read(f"{PROC}/{pid}/comm").rstrip("\n") in BACKGROUND:
                        break
                    yield _read(f"{PROC}/{pid}/fdinfo/{number}")
            except OSError:
                continue


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()

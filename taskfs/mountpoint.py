"""Mountpoints: what is mounted where, repairing what a dead daemon left, unmounting. No libfuse.

What is mounted is read from /proc/self/mountinfo (proc(5)), since `stat` and `ismount` answer
nothing on a mount whose daemon has died: errno 107, and False.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from taskfs.errors import MountError

T = TypeVar("T")

FSTYPE: Final = "fuse.taskfs"
FUSE_PACKAGES: Final = "apt-get install fuse libfuse2 (libfuse2t64 on newer systems)"
# errno of a path whose FUSE daemon is gone (fuse(4)): ENOTCONN, or ECONNABORTED while it goes.
DEAD: Final = (errno.ENOTCONN, errno.ECONNABORTED)
END_TIMEOUT_S: Final = 10.0
LAZY_TIMEOUT_S: Final = 2.0
ASK_TIMEOUT_S: Final = 2.0
MAX_LINKS: Final = 40  # as the kernel, path_resolution(7)
COMMAND_TIMEOUT_S: Final = 20.0


def _mounts() -> Iterator[tuple[str, str]]:
    """Yield place and type of what is mounted, as /proc/self/mountinfo (proc(5)) tells it."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields, _, rest = line.partition(" - ")
            place = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields.split(" ")[4])
            yield place, rest.split(" ", 1)[0]


def mounted_types(mountpoint: Path) -> list[str]:
    """Return the types of the file systems mounted on *mountpoint*, the topmost last."""
    return [kind for place, kind in _mounts() if place == str(mountpoint)]


def our_mounts() -> list[str]:
    """Return the places where this machine has taskfs mounted."""
    return [place for place, kind in _mounts() if kind == FSTYPE]


def absolute(mountpoint: Path) -> Path:
    """Return the path as the kernel names it, without asking the mount itself for anything."""
    place = Path(os.path.abspath(mountpoint))
    for _ in range(MAX_LINKS):
        place = Path(os.path.realpath(place.parent)) / place.name if place.name else place
        try:
            target = os.readlink(place)
        except OSError:  # no link: the kernel itself knows, and asks no file system
            return place
        place = Path(os.path.abspath(place.parent / target))
    raise MountError(f"{mountpoint} is a link without end: choose a directory")


def is_dead(mountpoint: Path) -> bool:
    """Whether a FUSE mount is there whose daemon has died; one that does not answer may live."""

    def ask() -> int:
        try:
            os.statvfs(mountpoint)  # unlike attributes, never answered from the kernel's memory
        except OSError as exc:
            return exc.errno or 0
        return 0

    return _answer(ask) in DEAD


def prepare(mountpoint: Path) -> Path:
    """Return the mountpoint as the kernel names it, ready to be mounted on.

    A mount of ours whose daemon has died is taken away first.

    Raises:
        MountError: it is missing, no directory, not empty, or something is mounted there.
    """
    mountpoint = absolute(mountpoint)
    types = mounted_types(mountpoint)
    if types and types[-1] == FSTYPE and is_dead(mountpoint):
        try:
            run_fusermount("-u", "-z", mountpoint)
        except MountError:
            if mounted_types(mountpoint)[-1:] == [FSTYPE]:
                raise
            # Else the daemon's own helper (auto_unmount) was faster.
        types = mounted_types(mountpoint)
    if types and types[-1] == FSTYPE:
        raise MountError(f"{mountpoint} is mounted already: unmount it with taskfs umount first")
    if types:
        raise MountError(f"{mountpoint} is busy ({types[-1]} is mounted there): choose another")
    try:
        names = os.listdir(mountpoint)
    except FileNotFoundError:
        raise MountError(f"{mountpoint} does not exist: create it with mkdir -p") from None
    except NotADirectoryError:
        raise MountError(f"{mountpoint} is not a directory: choose another") from None
    except OSError as exc:
        raise MountError(f"{mountpoint} cannot be used ({exc.strerror}): choose another") from exc
    if names:
        raise MountError(f"{mountpoint} is not empty: choose an empty directory")
    return mountpoint


def run_fusermount(*arguments: str | Path) -> None:
    """Run fusermount, the set-uid tool of libfuse 2; MountError with what it said if it fails."""
    program = shutil.which("fusermount") or shutil.which("fusermount", path="/bin:/usr/bin")
    if program is None:
        raise MountError(f"fusermount is missing: {FUSE_PACKAGES}")
    try:
        done = subprocess.run(
            [program, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise MountError("fusermount does not answer") from exc
    if done.returncode:
        raise MountError(" ".join(done.stderr.split()) or f"fusermount failed ({done.returncode})")


def umount(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount and wait until the daemon has ended; *lazy* detaches a mount that is in use.

    Raises:
        MountError: no taskfs is mounted there, it is busy, or its daemon does not end.
    """
    mountpoint = absolute(mountpoint)
    types = mounted_types(mountpoint)
    if not types or types[-1] != FSTYPE:
        raise MountError(f"no taskfs is mounted on {mountpoint}")
    pid = _ask_pid(mountpoint)
    try:
        run_fusermount("-u", *(["-z"] if lazy else []), mountpoint)
    except MountError as exc:
        if "busy" in str(exc).lower():
            raise MountError(
                f"{mountpoint} is busy: end what uses it (fuser -vm {mountpoint}), "
                "or detach it with taskfs umount --lazy"
            ) from exc
        raise
    if pid is None:
        return
    deadline = time.monotonic() + (LAZY_TIMEOUT_S if lazy else END_TIMEOUT_S)
    while not has_ended(pid):
        if time.monotonic() > deadline:
            if lazy:
                return  # it lives until the last open file is closed
            raise MountError(f"{mountpoint} is unmounted, but its process {pid} goes on")
        time.sleep(0.02)


def _ask_pid(mountpoint: Path) -> int | None:
    """Return the daemon's process id from the mount itself, None if it does not answer."""

    def ask() -> int | None:
        try:
            return int(json.loads((mountpoint / ".taskfs/stats.json").read_text())["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    return _answer(ask)


def read_answering(path: Path) -> str | None:
    """Return the text of a file on a mount, None if the mount does not answer in time.

    Raises:
        OSError: it cannot be read.
    """

    def ask() -> str | OSError:
        try:
            return path.read_text()
        except OSError as exc:
            return exc

    answer = _answer(ask)
    if isinstance(answer, OSError):
        raise answer
    return answer


def _answer(ask: Callable[[], T]) -> T | None:
    """Return what *ask* learns from a mount, None if that takes too long: it may take for ever."""
    answers: list[T] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(ASK_TIMEOUT_S)
    return answers[0] if answers else None


def has_ended(pid: int) -> bool:
    """Whether the process is gone; a zombie, which nobody may ever reap, has ended too."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as status:
            return status.read().rpartition(")")[2].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True

"""Mountpoints: what is mounted where, repairing what a dead daemon left, unmounting. No libfuse.

What is mounted is read from /proc/self/mountinfo (proc(5)), since `stat` and `ismount` answer
nothing on a mount whose daemon has died: errno 107, and False.
"""

import errno
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from taskfs.errors import MountError

T = TypeVar("T")

FSTYPE: Final = "fuse.taskfs"
AUTOFS: Final = "autofs"  # an automounter's trigger, which a mount goes on top of
FUSE_PACKAGES: Final = "apt-get install fuse libfuse2 (libfuse2t64 on newer systems)"
# errno of a path whose FUSE daemon is gone (fuse(4)): ENOTCONN, or ECONNABORTED while it goes.
DEAD: Final = (errno.ENOTCONN, errno.ECONNABORTED)
END_TIMEOUT_S: Final = 10.0
LAZY_TIMEOUT_S: Final = 2.0
ASK_TIMEOUT_S: Final = 2.0
MAX_LINKS: Final = 40  # as the kernel, path_resolution(7)
COMMAND_TIMEOUT_S: Final = 20.0
MTAB_FIX: Final = "sudo ln -s /proc/self/mounts /etc/mtab"
MNT_DETACH: Final = 2  # umount2(2)


class _Mounted(NamedTuple):
    """A line of /proc/self/mountinfo: `device` is the number that no other mount has meanwhile,
    `options` those of the file system."""

    place: str
    kind: str
    device: str
    options: str


def _mounts() -> Iterator[_Mounted]:
    """Yield the mounts, as /proc/self/mountinfo (proc(5)) tells them."""
    with open("/proc/self/mountinfo", "rb") as lines:  # its names are bytes, in no encoding
        for line in lines:
            head, _, tail = line.rstrip(b"\n").partition(b" - ")
            fields, rest = head.split(b" "), tail.split(b" ")
            place = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), fields[4])
            yield _Mounted(*map(os.fsdecode, (place, rest[0], fields[2], rest[-1])))


def _mounted(mountpoint: Path) -> list[_Mounted]:
    """Return the mounts on *mountpoint*, the topmost last."""
    return [mount for mount in _mounts() if mount.place == str(mountpoint)]


def mounted_types(mountpoint: Path) -> list[str]:
    """Return the types of the file systems mounted on *mountpoint*, the topmost last."""
    return [mount.kind for mount in _mounted(mountpoint)]


def mounted_device(mountpoint: Path) -> str:
    """Return the device number of the taskfs on *mountpoint*, empty without one."""
    mounts = _mounted(mountpoint)
    return mounts[-1].device if mounts and mounts[-1].kind == FSTYPE else ""


def our_mounts() -> list[str]:
    """Return the places where this machine has taskfs mounted."""
    return [mount.place for mount in _mounts() if mount.kind == FSTYPE]


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
        _check_owner(mountpoint)
        run_fusermount("-u", "-z", mountpoint)
        types = mounted_types(mountpoint)
    if types and types[-1] == FSTYPE:
        raise MountError(f"{mountpoint} is mounted already: unmount it with taskfs umount first")
    if types and types[-1] != AUTOFS:
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
    program = find_fusermount()
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
        said = " ".join(done.stderr.split()) or f"fusermount failed ({done.returncode})"
        if re.search(r"/etc/mtab: No such file", said):
            raise MountError(f"/etc/mtab is missing: {MTAB_FIX}")
        raise MountError(said)


def find_fusermount() -> str | None:
    """Return the path of fusermount, which may not be on the PATH of a service."""
    return shutil.which("fusermount") or shutil.which("fusermount", path="/bin:/usr/bin")


def why_not_set_uid(program: str) -> str:
    """Return why an ordinary user cannot mount with the fusermount *program*, with the fix; empty
    if it is set-uid root, or the caller is root."""
    found = os.stat(program)
    if not os.geteuid() or (found.st_mode & stat.S_ISUID and found.st_uid == 0):
        return ""
    return f"{program} is not set-uid root: sudo chmod u+s {program}"


def detach(mountpoint: Path, device: str) -> None:
    """Unmount the taskfs with the number *device*, busy or not, if it is on *mountpoint*.

    Another mount that came there meanwhile stays.

    Raises:
        MountError: it cannot be unmounted.
    """
    if not device or mounted_device(mountpoint) != device:
        return
    try:
        run_fusermount("-u", "-z", mountpoint)
    except MountError:
        # root needs no fusermount, which an upgrade may have removed.
        import ctypes  # a daemon has it; other commands start sooner without

        if ctypes.CDLL(None).umount2(os.fsencode(mountpoint), MNT_DETACH):
            raise


def _check_owner(mountpoint: Path) -> None:
    """Raise MountError if another user mounted *mountpoint*: only that user and root unmount it."""
    owner = re.search(r"(?:^|,)user_id=(\d+)", _mounted(mountpoint)[-1].options)
    if os.geteuid() and owner and int(owner[1]) != os.getuid():
        raise MountError(
            f"{mountpoint} was mounted by another user (uid {owner[1]}): only that user and root "
            f"can unmount it: sudo umount {shlex.quote(str(mountpoint))}"
        )


def umount(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount and wait until the daemon has ended; *lazy* detaches a mount that is in use.

    A mount whose daemon has died is detached in any case: nothing works on it.

    Raises:
        MountError: no taskfs is mounted there, it is another user's, it is busy, or its daemon
            does not end.
    """
    mountpoint = absolute(mountpoint)
    types = mounted_types(mountpoint)
    if not types or types[-1] != FSTYPE:
        raise MountError(f"no taskfs is mounted on {mountpoint}")
    _check_owner(mountpoint)
    pid = _ask_pid(mountpoint)
    lazy = lazy or (pid is None and is_dead(mountpoint))
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
            return int(json.loads((mountpoint / ".taskfs/stats.json").read_bytes())["pid"])
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

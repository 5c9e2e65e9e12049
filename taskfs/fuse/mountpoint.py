"""Mountpoints: check them, repair what a dead daemon left, unmount. Needs no libfuse."""

import errno
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from taskfs.errors import MountError
from taskfs.fuse.fusermount import COMMAND_TIMEOUT_S, run_fusermount
from taskfs.fuse.mount_table import (
    AUTOFS,
    FSTYPE,
    find_copy,
    mounted_device,
    mounted_types,
    mounts_on,
)

T = TypeVar("T")

# errno of a path whose FUSE daemon is gone (fuse(4)): ENOTCONN, or ECONNABORTED while it ends.
DEAD: Final = (errno.ENOTCONN, errno.ECONNABORTED)
# Seconds to wait for the daemon's end after an unmount: DRAIN_TIMEOUT_S for its requests,
# CLOSE_TIMEOUT_S for its connections and caches, and a margin for a busy machine.
END_TIMEOUT_S: Final = 10.0
# Seconds to wait after a lazy unmount. Open files may keep the daemon running for any time.
LAZY_TIMEOUT_S: Final = 2.0
# Seconds to wait for an answer of a mount. A live mount answers in milliseconds; one that hangs
# must not block the command.
ASK_TIMEOUT_S: Final = 2.0
MAX_LINKS: Final = 40  # links in a row, as in the kernel: path_resolution(7)
POLL_S: Final = 0.02  # seconds between two checks of whether the daemon has ended
# Tries to unmount what is busy, and seconds between them. Calls of the daemon's helpers on the
# mount take milliseconds, as do those of programs that look at every mount, but more on a busy
# machine.
BUSY_TRIES: Final = 10
BUSY_PAUSE_S: Final = 0.1
PROC: Final = "/proc"
MNT_DETACH: Final = 2  # umount2(2)


def absolute(mountpoint: Path) -> Path:
    """Return the path as the kernel names it, without asking the mount itself."""
    path = Path(os.path.abspath(mountpoint))
    for _ in range(MAX_LINKS):
        path = Path(os.path.realpath(path.parent)) / path.name if path.name else path
        try:
            target = os.readlink(path)
        except OSError:  # not a link: the kernel knows that without asking a file system
            return path
        path = Path(os.path.abspath(path.parent / target))
    raise MountError(f"{mountpoint} is a link that leads to itself: choose a directory")


def is_dead(mountpoint: Path) -> bool:
    """Whether a FUSE mount whose daemon has died is there; a mount that hangs may be alive."""

    def ask() -> int:
        try:
            os.statvfs(mountpoint)  # the kernel never caches its answer, unlike attributes
        except OSError as exc:
            return exc.errno or 0
        return 0

    return _call_in_time(ask) in DEAD


def prepare(mountpoint: Path) -> Path:
    """Return the mountpoint as the kernel names it, ready to be mounted on.

    A taskfs mount whose daemon has died is unmounted first.

    Raises:
        MountError: it is missing, not a directory, not empty, or something is mounted there.
    """
    mountpoint = absolute(mountpoint)
    types = mounted_types(mountpoint)
    if types and types[-1] == FSTYPE and is_dead(mountpoint):
        _check_owner(mountpoint)
        _unmount(mountpoint, lazy=True)
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


def detach(mountpoint: Path, device: str) -> None:
    """Unmount the taskfs with this *device*, busy or not, if it is on *mountpoint*.

    Another mount that replaced it there stays.

    Raises:
        MountError: it cannot be unmounted.
    """
    if device and mounted_device(mountpoint) == device:
        _unmount(mountpoint, lazy=True)


def detach_dead(mountpoint: Path, device: str) -> None:
    """Do what `detach` does if the connection of the mount has ended.

    The next mount on *mountpoint* may have the *device* of the last one, and answers.

    Raises:
        MountError: it cannot be unmounted.
    """
    if device and mounted_device(mountpoint) == device and is_dead(mountpoint):
        _unmount(mountpoint, lazy=True)


def umount(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount and wait until the daemon has ended; *lazy* detaches a mount that is in use.

    A mount whose daemon has died is always detached, because nothing works on it.

    Raises:
        MountError: no taskfs is mounted there, it is another user's, it is busy, or its daemon
            does not end.
    """
    mountpoint = absolute(mountpoint)
    types = mounted_types(mountpoint)
    if not types or types[-1] != FSTYPE:
        raise MountError(f"no taskfs is mounted on {mountpoint}: see `taskfs mounts`")
    _check_owner(mountpoint)
    pid, device = _read_pid(mountpoint), mounted_device(mountpoint)
    lazy = lazy or (pid is None and is_dead(mountpoint))
    try:
        _unmount_if_idle(mountpoint, lazy=lazy)
    except MountError as exc:
        if _is_busy(exc):
            raise MountError(
                f"{mountpoint} is busy: end what uses it (fuser -vm {mountpoint}), "
                "or detach it with taskfs umount --lazy"
            ) from exc
        raise
    if pid is None:
        return
    deadline_s = time.monotonic() + (LAZY_TIMEOUT_S if lazy else END_TIMEOUT_S)
    while not has_ended(pid):
        if time.monotonic() > deadline_s:
            if lazy:
                return  # the daemon serves until the last open file is closed
            raise MountError(f"{mountpoint} is unmounted, but {_why_running(pid, device)}")
        time.sleep(POLL_S)


def _why_running(pid: int, device: str) -> str:
    """Say why the daemon of an unmounted *device* still runs."""
    copy = find_copy(device)
    if copy is None:
        return f"its process {pid} still runs"
    holder, path = copy
    command = f"nsenter -t {holder} -m umount {shlex.quote(path)}"
    return f"process {holder} has a copy, which process {pid} serves: unmount it too ({command})"


def _unmount_if_idle(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount; try again for a moment if it is busy, because a helper of the daemon may use it."""
    for _ in range(BUSY_TRIES):
        try:
            return _unmount(mountpoint, lazy=lazy)
        except MountError as exc:
            if not _is_busy(exc):
                raise
        time.sleep(BUSY_PAUSE_S)
    _unmount(mountpoint, lazy=lazy)


def _is_busy(error: MountError) -> bool:
    # strerror(3) of EBUSY on each system; the path may say `busy` too
    return bool(re.search(r"\b(resource|device) busy", str(error), re.IGNORECASE))


def _unmount(mountpoint: Path, *, lazy: bool) -> None:
    if sys.platform != "linux":
        return _run_umount(mountpoint, lazy=lazy)
    try:
        run_fusermount("-u", *(["-z"] if lazy else []), mountpoint)
    except MountError as exc:
        # Root can unmount without fusermount, which an upgrade may have removed. A busy mount is
        # busy for root too.
        if os.geteuid() or _is_busy(exc):
            raise
        import ctypes  # the other commands start sooner without it

        if ctypes.CDLL(None).umount2(os.fsencode(mountpoint), MNT_DETACH if lazy else 0):
            raise


def _run_umount(mountpoint: Path, *, lazy: bool) -> None:
    """Unmount with umount(8), as macOS and FreeBSD do it; they have no fusermount."""
    try:
        done = subprocess.run(
            ["umount", *(["-f"] if lazy else []), str(mountpoint)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise MountError(f"umount cannot be run: {exc}") from exc
    if done.returncode:
        output = " ".join(done.stderr.split())
        raise MountError(output or f"umount failed ({done.returncode})")


def _check_owner(mountpoint: Path) -> None:
    """Raise MountError if another user mounted *mountpoint*: only that user and root unmount it."""
    owner = re.search(r"(?:^|,)user_id=(\d+)", mounts_on(mountpoint)[-1].options)
    if os.geteuid() and owner and int(owner[1]) != os.getuid():
        raise MountError(
            f"{mountpoint} was mounted by another user (uid {owner[1]}): only that user and root "
            f"can unmount it: sudo umount {shlex.quote(str(mountpoint))}"
        )


def _read_pid(mountpoint: Path) -> int | None:
    """Return the daemon's process id from the mount's statistics; None without an answer."""

    def ask() -> int | None:
        try:
            return int(json.loads((mountpoint / ".taskfs/stats.json").read_bytes())["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    return _call_in_time(ask)


def read_answering(path: Path) -> str | None:
    """Return the text of a file on a mount; None if the mount does not answer in time.

    Raises:
        OSError: the file cannot be read.
    """

    def ask() -> str | OSError:
        try:
            return path.read_text()
        except OSError as exc:
            return exc

    answer = _call_in_time(ask)
    if isinstance(answer, OSError):
        raise answer
    return answer


def _call_in_time(ask: Callable[[], T]) -> T | None:
    """Return the result of *ask*, which asks a mount; None after ASK_TIMEOUT_S.

    It runs in a thread of its own, because a mount that hangs may never answer.
    """
    answers: list[T] = []
    thread = threading.Thread(target=lambda: answers.append(ask()), daemon=True)
    thread.start()
    thread.join(ASK_TIMEOUT_S)
    return answers[0] if answers else None


def has_ended(pid: int) -> bool:
    """Whether the process has ended; a zombie has, because its parent may never wait for it."""
    try:
        with open(f"{PROC}/{pid}/stat", encoding="ascii", errors="replace") as status:
            return status.read().rpartition(")")[2].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists(f"{PROC}/self/stat"):
            return True
    try:  # a system without proc(5)
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's process
    return False

"""Locks on ranges: processes that share a cache directory fetch each block once.

All locks are on one file. They are Linux's locks of open file descriptions (fcntl(2), F_OFD_SETLK).
Each lock opens the file again, so threads exclude each other too, and the kernel releases the locks
of a process that dies. The locks are advisory: where they do not work, and where one is held for
too long, two processes fetch the same bytes.
"""

import contextlib
import errno
import fcntl
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from taskfs.support.fallback import log_fallback
from taskfs.support.thread_pool import let_another_run

# Seconds to wait for another process: longer than most fetches. A process that hangs delays the
# others by no more than this.
LOCK_TIMEOUT_S: Final = 10.0
# Seconds between two tries to lock a range: doubled from the first to the last.
FIRST_PAUSE_S: Final = 0.002
MAX_PAUSE_S: Final = 0.05
# struct flock (fcntl(2)) of Linux: type, whence, start, length, pid, which must be 0.
_LINUX_FLOCK: Final = struct.Struct("@hhqqi0q")
# struct flock of macOS and FreeBSD: start, length, pid, type, whence; on FreeBSD also a system id.
_BSD_FLOCK: Final = struct.Struct("@qqihhi0q")
# Each key has 2^22 adjacent units in the lock file. Two keys may have the same ones; then one
# process waits although its bytes are not being fetched.
UNIT_BITS: Final = 22
KEY_DIGITS: Final = 10  # hexadecimal digits of a hash that choose the units: 40 bits
_HELD: Final = (errno.EAGAIN, errno.EACCES)  # another description holds the range: fcntl(2)


@contextlib.contextmanager
def lock_range(
    path: Path, key: str, first: int, last: int, is_on_disk: Callable[[], bool]
) -> Iterator[None]:
    """Lock the units [first, last] of *key*, a hexadecimal number, while the body runs.

    While another process holds some of them, wait until *is_on_disk*, at most `LOCK_TIMEOUT_S`.
    Then run the body without the lock. A thread of a pool that waits for long does not count as one
    of the pool's threads.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        yield
        return
    start = (int(key[:KEY_DIGITS], 16) << UNIT_BITS) + first
    try:
        _wait(descriptor, start, last - first + 1, is_on_disk)
        yield
    finally:
        with contextlib.suppress(OSError, AttributeError):
            # Closing does not unlock: a child forked meanwhile has the description open too.
            _lock(descriptor, fcntl.F_UNLCK, start, last - first + 1)
        os.close(descriptor)


def _wait(descriptor: int, start: int, length: int, is_on_disk: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return _lock(descriptor, fcntl.F_WRLCK, start, length)
        except (OSError, AttributeError) as exc:
            if not isinstance(exc, OSError) or exc.errno not in _HELD:
                # The file system, the kernel or a sandbox does not support these locks.
                return log_fallback("F_OFD_SETLK", exc)
            if time.monotonic() > deadline or is_on_disk():
                return None
        if pause_s == MAX_PAUSE_S:  # a long wait
            let_another_run()
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, MAX_PAUSE_S)


def _lock(descriptor: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, pack_flock(kind, start, length))


def pack_flock(kind: int, start: int, length: int) -> bytes:
    """Return this system's struct flock for a lock of *kind* on a range of units."""
    if sys.platform == "linux":
        return _LINUX_FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
    return _BSD_FLOCK.pack(start, length, 0, kind, os.SEEK_SET, 0)

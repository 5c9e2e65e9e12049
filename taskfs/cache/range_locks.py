"""Who fetches what: processes that share a cache directory agree by locks on ranges of one file.

The locks are Linux's for open file descriptions (fcntl(2), F_OFD_SETLK): each claim opens the file
anew, so threads exclude each other too, and what a process held is free when it has died. They are
advice: where locks do not work, or somebody holds one for too long, both fetch.
"""

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from taskfs.support.buffers import Buffer
from taskfs.support.fallback import log_fallback

LOCK_TIMEOUT_S: Final = 10.0
FIRST_PAUSE_S: Final = 0.002
LONGEST_PAUSE_S: Final = 0.05
# struct flock (fcntl(2)): type, whence, start, length, pid, which must be 0.
_FLOCK: Final = struct.Struct("@hhqqi0q")
# A key's ranges lie side by side, 2^22 units for each; two keys that meet wait in vain, no more.
UNIT_BITS: Final = 22
KEY_DIGITS: Final = 10
_HELD: Final = (errno.EAGAIN, errno.EACCES)  # another description holds the range: fcntl(2)


class StoredBlocks(Protocol):
    """The blocks of one object version that outlive the process."""

    def present(self, first: int, stop: int) -> list[int]:
        """Return which of the blocks [first, stop) seem to be there, in order."""
        ...

    def get(self, first: int, count: int = 1) -> Buffer | None:
        """Return up to *count* blocks from *first* on, as far as they are there and right; a short
        one is the last."""
        ...

    def put(self, first: int, run: Buffer) -> None:
        """Keep the blocks of *run*, from *first* on."""
        ...

    def drop(self, first: int, last: int) -> None:
        """Forget the blocks [first, last]."""
        ...

    def lock_range(self, first: int, last: int) -> contextlib.AbstractContextManager[None]:
        """Have other processes wait that want the blocks [first, last]; wait for those before."""
        ...


@contextlib.contextmanager
def lock_range(
    path: Path, key: str, first: int, last: int, is_there: Callable[[], bool]
) -> Iterator[None]:
    """Hold the units [first, last] of *key*, which begins with hexadecimal digits, while the body
    runs.

    Whoever else holds some of them is waited for, until *is_there* or for `LOCK_TIMEOUT_S` at most.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        yield
        return
    start = (int(key[:KEY_DIGITS], 16) << UNIT_BITS) + first
    try:
        _wait(descriptor, start, last - first + 1, is_there)
        yield
    finally:
        with contextlib.suppress(OSError, AttributeError):
            # By word and not by closing: a child forked meanwhile has the description open too.
            _lock(descriptor, fcntl.F_UNLCK, start, last - first + 1)
        os.close(descriptor)


def fetch_missing(
    kept: Iterable[tuple[int, int, Buffer]],
    fetch: Callable[[int, int], Buffer],
    first: int,
    stop: int,
) -> Buffer:
    """Return the blocks [first, stop), of which only those are fetched that are not *kept* by now,
    in runs of (first, stop, bytes): whoever was waited for wanted some of them too."""
    pieces: list[Buffer] = []
    for begin, end, run in kept:
        if first < begin:
            pieces.append(fetch(first, begin))
        pieces.append(run)
        first = end
    if first < stop:
        pieces.append(fetch(first, stop))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _wait(descriptor: int, start: int, length: int, is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return _lock(descriptor, fcntl.F_WRLCK, start, length)
        except (OSError, AttributeError) as exc:
            if not isinstance(exc, OSError) or exc.errno not in _HELD:
                # A file system, a kernel or a sandbox without such locks.
                return log_fallback("F_OFD_SETLK", exc)
            if time.monotonic() > deadline or is_there():
                return None
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _lock(descriptor: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))

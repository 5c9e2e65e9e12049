"""Eviction from the cache directory, and the reserve of free space that it keeps on the disk."""

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

# Part of the file system that stays free for other programs: what mountpoint-s3 leaves, too.
RESERVE: Final = 0.05
KEEP: Final = (
    0.9  # part of the allowed or used size that an eviction leaves: the next one is then far off
)
RECOUNT: Final = 16  # other mounts write too: after this part of the size, the files are counted
LOOK_S: Final = 2.0  # how often the free space is looked at while the cache is only read
SETTLE_S: Final = 1.0  # some file systems show freed space late: until then no more is evicted
LOWERED_S: Final = 600.0  # how long the cache stays smaller after a quota or the disk was full
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
LOCK: Final = "lock"
CLAIMS: Final = "claims"


def shortage(directory: Path, count: int) -> int:
    """Return how many bytes must be freed so that *count* more leave the reserve free.

    0 or less if there is enough space, or if the file system does not say how much it has.
    """
    try:
        status = os.statvfs(directory)
    except OSError:
        return 0
    reserve = int(status.f_blocks * RESERVE)
    return (reserve - status.f_bavail) * status.f_frsize + count if reserve else 0


def cached_files(root: Path) -> list[tuple[float, int, Path]]:
    """Return when each file was last used, what it takes on disk, and its path."""
    found = []
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            with contextlib.suppress(OSError):
                status = path.lstat()
                found.append((status.st_mtime, status.st_blocks * 512, path))
    return found


def used_bytes(root: Path) -> int:
    """Return what all files take on disk."""
    return sum(size for _, size, _ in cached_files(root))


def evict(root: Path, goal: float, forget: Callable[[Path], object]) -> int | None:
    """Remove the files unused longest until at most *goal* bytes are used; call *forget* with the
    path of each.

    Return how many bytes are used then, None if another mount evicts at this moment.
    """
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(open(root / LOCK, "ab", opener=open_private))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError:
            pass  # a file system without locks: where two evict at once, too much goes
        files = sorted(cached_files(root))
        used = sum(size for _, size, _ in files)
        for _, size, path in files:
            if used <= goal:
                break
            if path.name in (LOCK, CLAIMS):
                continue
            with contextlib.suppress(OSError):
                # Cut first: it takes no room then while another mount has it open.
                os.close(open_private(str(path), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC))
            with contextlib.suppress(OSError):
                path.unlink()
            forget(path)
            used -= size
        return used


class DiskSpace:
    """How much the cache at *root* may take: its size, the disk's reserve and quotas.

    Safe for concurrent use: the lock is held while files are counted or evicted; *forget* is called
    under it.
    """

    def __init__(self, root: Path, max_bytes: int, forget: Callable[[Path], object]) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._forget = forget
        self._lock = threading.Lock()
        self._used: int | None = None  # counted on disk; None: not yet
        self._written = 0  # since then
        self._limit = max_bytes
        self._lowered_until_s = float("-inf")  # the limit is less than the size until then
        self._settled_s = float("-inf")
        self._looked_s = float("-inf")

    def has_space(self, count: int) -> bool:
        """Return whether *count* more bytes leave the reserve free, after an eviction if they do
        not at first."""
        if shortage(self._root, count) <= 0:
            return True
        with self._lock:
            missing = shortage(self._root, count)  # another thread may have evicted meanwhile
            if missing > 0 and time.monotonic() >= self._settled_s:
                self._evict(missing)
                missing = shortage(self._root, count)
                if missing > 0:
                    self._settled_s = time.monotonic() + SETTLE_S
        return missing <= 0

    def look(self) -> None:
        """Evict what takes the reserve; the disk is asked at most every `LOOK_S`."""
        now = time.monotonic()
        if now - self._looked_s > LOOK_S:
            self._looked_s = now
            self.has_space(0)

    def shrink(self, count: int) -> None:
        """Evict *count* bytes and more because a quota or the disk is full.

        The cache stays that small for `LOWERED_S`: the user's other programs meet the same limit.
        """
        with self._lock:
            self._evict(count)
            if self._used is not None:
                self._limit = min(self._max_bytes, self._used + count)
                self._lowered_until_s = time.monotonic() + LOWERED_S

    def note_written(self, count: int) -> None:
        """Count *count* more bytes on disk, and evict if there are too many."""
        with self._lock:
            if time.monotonic() > self._lowered_until_s:
                self._limit = self._max_bytes
            self._written += count
            if self._used is None or self._written > self._limit // RECOUNT:
                self._used = used_bytes(self._root)
                self._written = 0
            if self._used + self._written > self._limit:
                self._evict()

    def _evict(self, to_free: int = 0) -> None:
        """Evict down to `KEEP` of the limit; with *to_free*, that many bytes and the rest of `KEEP`
        of the used ones at least."""
        goal = self._limit * KEEP
        if to_free:
            goal = min(goal, used_bytes(self._root) * KEEP - to_free)
        # None: another mount evicts; the files are counted anew once it is done.
        self._used = evict(self._root, goal, self._forget)
        if self._used is not None:
            self._written = 0


def open_private(path: str, flags: int) -> int:
    """Open a file of the cache: not another user's behind a link, and without waiting for one."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)

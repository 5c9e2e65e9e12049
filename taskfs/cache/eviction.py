"""Eviction from the cache directory, and the reserve of free space that it leaves on the disk."""

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from taskfs.cache.pins import DIRECTORY as PINS
from taskfs.cache.pins import pinned_files

# Part of the file system that stays free for other programs; mountpoint-s3 leaves the same.
RESERVE: Final = 0.05
# Part of the limit, or of the used bytes, down to which files are evicted: a lower part would evict
# more than is needed, a higher one would evict again soon.
EVICT_TO: Final = 0.9
# The files are counted again after writes of 1/16 of the limit, because other mounts write too.
RECOUNT: Final = 16
# Part of the limit that one index may take: a larger one would evict most of the other files.
MAX_SHARE: Final = 0.5
CHECK_S: Final = 2.0  # between two checks of the free space while the cache is only read
# Seconds without another eviction after one: some file systems report freed space late.
SETTLE_S: Final = 1.0
# Seconds for which the limit stays lower after a quota or the disk was full.
LOWERED_S: Final = 600.0
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# Two files in the cache directory that are never evicted. The time of the second one says when a
# process last removed all indexes.
EVICTION_LOCK: Final = "lock"
RANGE_LOCKS: Final = "claims"  # caches of earlier versions use this name, too
# The directory of the indexes. They are evicted like blocks.
INDEXES: Final = "index"


def shortage(directory: Path, count: int) -> int:
    """Return how many bytes must be freed so that *count* more leave the reserve free.

    0 or less if there is enough space, or if the file system does not report its size.
    """
    try:
        status = os.statvfs(directory)
    except OSError:
        return 0
    reserve = int(status.f_blocks * RESERVE)
    return (reserve - status.f_bavail) * status.f_frsize + count if reserve else 0


def cached_files(root: Path) -> list[tuple[float, int, Path]]:
    """Return the time of use, the bytes on disk and the path of each file."""
    found = []
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            with contextlib.suppress(OSError):
                status = path.lstat()
                found.append((status.st_mtime, status.st_blocks * 512, path))
    return found


def used_bytes(root: Path) -> int:
    """Return the bytes on disk of all files."""
    return sum(size for _, size, _ in cached_files(root))


def evict(root: Path, goal: float, forget: Callable[[Path], object]) -> int | None:
    """Remove the least recently used files until at most *goal* bytes are used.

    Call *forget* with the path of each. Return the bytes that are still used, or None if another
    mount evicts at this moment.
    """
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(open(root / EVICTION_LOCK, "ab", opener=open_private))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError:
            pass  # a file system without locks: two mounts may evict more than needed
        files = sorted(cached_files(root))
        pinned = pinned_files(root)
        used = sum(size for _, size, _ in files)
        for _, size, path in files:
            if used <= goal:
                break
            if is_lock_or_pin(path) or path in pinned:
                continue
            remove_file(path)
            forget(path)
            used -= size
        return used


def is_lock_or_pin(path: Path) -> bool:
    """Whether *path* is a lock file or a file of pins, which hold no data of archives."""
    return path.name in (EVICTION_LOCK, RANGE_LOCKS) or path.parent.name == PINS


def remove_file(path: Path) -> None:
    """Remove a file with data of archives, which processes may have open."""
    with contextlib.suppress(OSError):
        # Truncate first: another mount may have the file open, which keeps its space. An index that
        # is in use would have to be fetched again.
        if path.parent.name != INDEXES:
            os.close(open_private(str(path), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC))
    with contextlib.suppress(OSError):
        path.unlink()


class DiskSpace:
    """The bytes that the cache at *root* may take: its size, the disk's reserve and quotas.

    Safe for concurrent use: the lock is held while files are counted or evicted, and *forget* is
    called under it. A second lock guards the sum of reserved bytes only.
    """

    def __init__(self, root: Path, max_bytes: int, forget: Callable[[Path], object]) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._forget = forget
        self._lock = threading.Lock()
        self._used: int | None = None  # bytes at the last count; None before the first
        self._written = 0  # bytes since then
        self._reserving = threading.Lock()
        self._reserved = 0  # bytes of the writes in progress
        self._limit = max_bytes
        self._lowered_until_s = float("-inf")  # the limit is below `max_bytes` until then
        self._settled_s = float("-inf")
        self._checked_s = float("-inf")

    def fits(self, count: int) -> bool:
        """Whether one file of *count* bytes leaves room for others."""
        return count <= self._max_bytes * MAX_SHARE

    @contextlib.contextmanager
    def reserve(self, count: int) -> Iterator[bool]:
        """Reserve *count* bytes until the block ends; yield what `has_space` returns for them."""
        with self._reserving:
            self._reserved += count
        try:
            yield self.has_space(0)
        finally:
            with self._reserving:
                self._reserved -= count

    def has_space(self, count: int) -> bool:
        """Return whether *count* bytes more than those reserved leave the disk's reserve free.

        Evict if necessary. The parts of reserved bytes that are written already count twice.
        """
        count += self._reserved  # read before the disk is asked: a write may end in between
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

    def check_reserve(self) -> None:
        """Evict if the reserve is not free; check this at most every `CHECK_S`."""
        now_s = time.monotonic()
        if now_s - self._checked_s > CHECK_S:
            self._checked_s = now_s
            self.has_space(0)

    def shrink(self, count: int) -> None:
        """Evict *count* bytes and more, because a quota or the disk is full.

        The limit stays that low for `LOWERED_S`: the user's other programs have the same limit.
        """
        with self._lock:
            self._evict(count)
            if self._used is not None:
                self._limit = min(self._max_bytes, self._used + count)
                self._lowered_until_s = time.monotonic() + LOWERED_S

    def note_written(self, count: int) -> None:
        """Count *count* more bytes on disk; evict if there are too many."""
        with self._lock:
            if time.monotonic() > self._lowered_until_s:
                self._limit = self._max_bytes
            self._written += count
            if self._used is None or self._written > self._limit // RECOUNT:
                self._used = used_bytes(self._root)
                self._written = 0
            is_over = self._used + self._written > self._limit
            if is_over and time.monotonic() >= self._settled_s:
                self._evict()
                if self._used is not None and self._used > self._limit:  # most of it is pinned
                    self._settled_s = time.monotonic() + SETTLE_S

    def _evict(self, to_free: int = 0) -> None:
        """Evict down to `EVICT_TO` of the limit.

        With *to_free*, leave at most `EVICT_TO` of the used bytes, less *to_free*.
        """
        goal = self._limit * EVICT_TO
        if to_free:
            goal = min(goal, used_bytes(self._root) * EVICT_TO - to_free)
        # None: another mount evicts; the files are counted again at the next write.
        self._used = evict(self._root, goal, self._forget)
        if self._used is not None:
            self._written = 0


def open_private(path: str, flags: int) -> int:
    """Open a file of the cache; follow no link, and do not wait for a FIFO's other end."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)

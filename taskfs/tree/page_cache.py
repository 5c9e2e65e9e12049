"""`PageCache`: which pages of the files of archives the kernel may keep in its page cache.

The kernel's pages and size belong to a path, not to an open file. So this module counts the open
files by version, and decides for each open whether the kernel may keep the pages that it has, must
drop them, or must use direct I/O.
"""

import enum
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from taskfs.model import ObjectVersion
from taskfs.support.clock import age_clock
from taskfs.tasks.archive_kind import ArchiveKey

# Walking 1,000 names takes about one attr timeout, so the lifetime of attributes grows by one for
# each 1,000 names of a listing.
NAMES_PER_ATTR_TIMEOUT: Final = 1000
MAX_ATTR_LIFETIME_S: Final = 60.0
# Seconds that a reply to the kernel may take: it counts the lifetime of attributes from then on.
REPLY_S: Final = 0.5


class PageCacheMode(enum.Enum):
    """What the kernel does with the pages of a file that is opened."""

    KEEP = enum.auto()
    DROP = enum.auto()
    DIRECT = enum.auto()


class Lease(NamedTuple):
    """One open file of one version of an archive; return it with `PageCache.release`."""

    key: ArchiveKey
    path: str
    generation: int
    size: int
    mode: PageCacheMode


@dataclass(slots=True)
class _Pages:
    """The kernel's pages of one archive's files."""

    version: ObjectVersion | None = None  # that was loaded last
    generation: int = 0  # how many times the version changed
    attrs_expire_s: float = float("-inf")  # the kernel may use attributes of listings until then
    # From then on the kernel has no attributes of an older version.
    attrs_settled_s: float = float("-inf")
    # Paths whose pages all belong to the archive that was loaded last; None: all paths.
    fresh_paths: set[str] | None = None
    damaged_paths: set[str] = field(default_factory=set)  # paths whose pages may be wrong
    opened: Counter[tuple[str, int, int]] = field(default_factory=Counter)  # path, generation, size


class PageCache:
    """The kernel's pages of all archives. Safe for concurrent use: the lock guards the table."""

    def __init__(self, attr_timeout_s: float, clock: Callable[[], float] = age_clock) -> None:
        self._attr_timeout_s = attr_timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._archives: dict[ArchiveKey, _Pages] = {}

    def note_version(self, key: ArchiveKey, version: ObjectVersion) -> None:
        """Note that the archive was loaded: the next open of each path drops the kernel's pages.

        Pages of another version are wrong. Pages of the same version may contain bytes that were
        not verified, because only the replaced archive recorded which members were read to
        their ends.
        """
        with self._lock:
            pages = self._pages(key)
            if pages.version is not None:
                pages.fresh_paths = set()
                if pages.version != version:
                    pages.generation += 1
                    expiry_s = max(pages.attrs_expire_s, self._clock() + self._attr_timeout_s)
                    pages.attrs_settled_s = expiry_s + REPLY_S
            pages.version = version

    def has_open_files(self, key: ArchiveKey) -> bool:
        """Whether files of any version of the archive are open."""
        pages = self._archives.get(key)
        return pages is not None and bool(pages.opened)

    def lease(self, key: ArchiveKey, version: ObjectVersion, path: str, size: int) -> Lease:
        """Note that *path*, of *size* bytes in this *version*, is opened."""
        with self._lock:
            pages = self._pages(key)
            generation = pages.generation - (pages.version != version)
            mode = self._mode(pages, path, generation)
            pages.opened[path, generation, size] += 1
            return Lease(key, path, generation, size, mode)

    def release(self, lease: Lease) -> None:
        """Note that the open file is closed."""
        with self._lock:
            pages = self._archives.get(lease.key)
            if pages is None:
                return
            opened = (lease.path, lease.generation, lease.size)
            pages.opened[opened] -= 1
            if pages.opened[opened] <= 0:
                del pages.opened[opened]

    def note_damaged(self, lease: Lease) -> None:
        """Note that wrong bytes may be among the pages: the next open of the path drops them."""
        with self._lock:
            self._pages(lease.key).damaged_paths.add(lease.path)

    def is_outdated(self, lease: Lease) -> bool:
        """Whether a newer version than that of *lease* was loaded."""
        pages = self._archives.get(lease.key)
        return pages is not None and pages.generation > lease.generation

    def reported_size(self, key: ArchiveKey, path: str, size: int) -> int:
        """Return the size to report of *path*, which has *size* bytes in the version in use.

        It does not shrink while an older, longer version is open: its readers would lose the end.
        """
        pages = self._archives.get(key)
        if pages is None or not pages.generation:
            return size
        with self._lock:
            older = [s for (p, g, s) in pages.opened if p == path and g < pages.generation]
        return max([size, *older])

    def attr_lifetime(self, key: ArchiveKey, count: int) -> float:
        """Return the seconds for which the kernel may keep the attributes of a listing of *count*
        members, so that a walk over them causes no further requests.
        """
        timeout_s = self._attr_timeout_s
        scaled_s = timeout_s * (1 + count / NAMES_PER_ATTR_TIMEOUT)
        lifetime_s = min(scaled_s, max(timeout_s, MAX_ATTR_LIFETIME_S))
        with self._lock:
            pages = self._pages(key)
            pages.attrs_expire_s = max(pages.attrs_expire_s, self._clock() + lifetime_s)
        return lifetime_s

    def _pages(self, key: ArchiveKey) -> _Pages:
        return self._archives.setdefault(key, _Pages())

    def _mode(self, pages: _Pages, path: str, generation: int) -> PageCacheMode:
        is_older_open = any(p == path and g < generation for (p, g, _) in pages.opened)
        is_outdated = generation < pages.generation
        # Until its attributes of the older version expire, the kernel cuts pages at that size.
        if is_older_open or is_outdated or self._clock() < pages.attrs_settled_s:
            return PageCacheMode.DIRECT
        if path in pages.damaged_paths:
            pages.damaged_paths.discard(path)
            return PageCacheMode.DROP
        if pages.fresh_paths is not None and path not in pages.fresh_paths:
            pages.fresh_paths.add(path)
            return PageCacheMode.DROP
        return PageCacheMode.KEEP

"""`PageCache`: which pages of the files of archives the kernel may keep in its page cache.

The kernel's pages and size belong to a path, not to an open file. So this module counts the open
files by version, and decides for each open whether the kernel may keep the pages that it has, must
drop them, or must use direct I/O.
"""

import enum
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from taskfs.model import ObjectVersion
from taskfs.support.clock import age_clock
from taskfs.tasks.archive_kind import ArchiveKey
from taskfs.tree.lifetime import Lifetime

# Seconds that a reply to the kernel may take: it counts the lifetime of attributes from then on.
REPLY_S: Final = 0.5
# Paths whose pages are known to be of the last load of their archive: some 200 bytes each. Pages of
# other paths are dropped at each open.
MAX_FRESH_PATHS: Final = 16_384

# Has the kernel drop what it keeps beneath the directory at a path, then calls the function.
Invalidate = Callable[[str, Callable[[], None]], None]


class PageCacheMode(enum.Enum):
    """How the kernel treats the pages that it has of a file when the file is opened."""

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


@dataclass(slots=True, eq=False)
class _Pages:
    """The kernel's pages of one archive's files. It stays until the mount ends."""

    version: ObjectVersion | None = None  # of the archive that was loaded last
    loads: int = 0  # how many times the archive was loaded
    generation: int = 0  # how many times the version changed
    # The time when the last attributes of an older version expire in the kernel. From then on its
    # attributes are settled: all are of the current version.
    attrs_settled_s: float = float("-inf")
    needs_invalidation: bool = False  # the kernel may have attributes with `Lifetime.VERSION`
    # After a drop, the kernel still has names that may be of another type in the next version. They
    # can be dropped only when that version is loaded.
    may_have_old_names: bool = False
    invalidations: int = 0  # notifications that the kernel has not received yet


class PageCache:
    """The kernel's pages of all archives.

    Safe for concurrent use: the lock guards the tables. A single look-up takes no lock.
    `changes` counts how often an archive got another version than before, or was dropped. The first
    load of an archive does not count.
    """

    def __init__(self, attr_timeout_s: float, clock: Callable[[], float] = age_clock) -> None:
        self.changes = 0
        self._invalidate: Invalidate | None = None
        self._attr_timeout_s = attr_timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._archives: dict[ArchiveKey, _Pages] = {}
        # The open files of each archive: path, generation, size.
        self._opened: dict[ArchiveKey, Counter[tuple[str, int, int]]] = {}
        # Paths whose pages were dropped after the last load of the archive. The archives stand in
        # the order in which their first paths were added. An archive that was loaded once needs no
        # paths, because all pages belong to that load.
        self._fresh_paths: dict[ArchiveKey, set[str]] = {}
        self._fresh_count = 0  # of the paths of all archives
        self._damaged_paths: set[tuple[ArchiveKey, str]] = set()  # their pages may be wrong

    def note_version(self, key: ArchiveKey, version: ObjectVersion) -> None:
        """Note that the archive was loaded.

        After each load but the first, the next open of each path drops the kernel's pages, also
        where the version is the same. Pages of another version are wrong. Pages of the same version
        may contain bytes that were not verified, because only the replaced archive recorded which
        members were read to their ends.
        """
        with self._lock:
            pages = self._pages(key)
            if pages.version not in (None, version):
                pages.generation += 1
                pages.needs_invalidation |= pages.may_have_old_names
                pages.may_have_old_names = False
                self._notify_kernel(key, pages)
                self._set_settled(pages)
            pages.version = version
            pages.loads += 1
            self._forget_fresh_paths(key)

    def note_dropped(self, key: ArchiveKey) -> None:
        """Note that the archive is not in use any more: the kernel must ask again."""
        with self._lock:
            pages = self._archives.get(key)
            if pages is not None:
                pages.may_have_old_names |= pages.needs_invalidation
                self._notify_kernel(key, pages)

    def keep_versions(self, invalidate: Invalidate) -> None:
        """Let the kernel keep the attributes and listings of each version.

        *invalidate* is called after a change of them, and must not wait.
        """
        self._invalidate = invalidate

    def lifetime(self, key: ArchiveKey, version: ObjectVersion) -> Lifetime:
        """Return for how long the kernel may keep attributes and listings of *version*."""
        if self._invalidate is None or not self._attr_timeout_s:
            return Lifetime.TIMEOUT
        with self._lock:  # or `note_version` could change the version after it was compared
            pages = self._archives.get(key)
            if pages is None or pages.version != version:
                return Lifetime.TIMEOUT
            # While an older version is open, sizes depend on it: see `reported_size`.
            if pages.generation and (key in self._opened or self._clock() < pages.attrs_settled_s):
                return Lifetime.TIMEOUT
            pages.needs_invalidation = True
            return Lifetime.VERSION

    def has_open_files(self, key: ArchiveKey) -> bool:
        """Whether files of any version of the archive are open."""
        return key in self._opened

    def lease(self, key: ArchiveKey, version: ObjectVersion, path: str, size: int) -> Lease:
        """Note that *path*, of *size* bytes in this *version*, is opened."""
        with self._lock:
            pages = self._pages(key)
            # A version that is not the last one loaded counts as that of the generation before.
            generation = pages.generation - (pages.version != version)
            opened = self._opened.setdefault(key, Counter())
            is_older_open = any(p == path and g < generation for (p, g, _) in opened)
            mode = self._mode(key, path, generation, is_older_open)
            opened[path, generation, size] += 1
            return Lease(key, path, generation, size, mode)

    def release(self, lease: Lease) -> None:
        """Note that the open file is closed."""
        with self._lock:
            opened = self._opened[lease.key]
            file = lease.path, lease.generation, lease.size
            opened[file] -= 1
            if opened[file] == 0:
                del opened[file]
            if not opened:
                del self._opened[lease.key]

    def note_damaged(self, lease: Lease) -> None:
        """Note that wrong bytes may be among the pages: the next open of the path drops them."""
        with self._lock:
            self._damaged_paths.add((lease.key, lease.path))

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
            opened = self._opened.get(key, ())
            older = [s for (p, g, s) in opened if p == path and g < pages.generation]
        return max([size, *older])

    def _notify_kernel(self, key: ArchiveKey, pages: _Pages) -> None:
        """Have the kernel drop what it keeps. The caller holds the lock."""
        self.changes += 1
        if pages.needs_invalidation and self._invalidate is not None:
            pages.needs_invalidation = False
            pages.invalidations += 1
            self._invalidate(key.directory, partial(self._note_invalidated, pages))

    def _note_invalidated(self, pages: _Pages) -> None:
        """Note that the kernel has dropped what it kept when it was last notified."""
        with self._lock:
            pages.invalidations -= 1
            if pages.attrs_settled_s == float("inf"):
                self._set_settled(pages)

    def _set_settled(self, pages: _Pages) -> None:
        """Set when the kernel's attributes of older versions expire. The caller holds the lock.

        Answers in flight may still have older ones, so they expire after the attr timeout.
        """
        settled_s = self._clock() + self._attr_timeout_s + REPLY_S
        pages.attrs_settled_s = float("inf") if pages.invalidations else settled_s

    def _pages(self, key: ArchiveKey) -> _Pages:
        return self._archives.setdefault(key, _Pages())

    def _mode(
        self, key: ArchiveKey, path: str, generation: int, is_older_open: bool
    ) -> PageCacheMode:
        pages = self._archives[key]
        is_outdated = generation < pages.generation
        # Until the older size expires, the kernel would cut a page at that size.
        if is_older_open or is_outdated or self._clock() < pages.attrs_settled_s:
            return PageCacheMode.DIRECT
        if (key, path) in self._damaged_paths:
            self._damaged_paths.discard((key, path))
            return PageCacheMode.DROP
        if pages.loads > 1 and path not in self._fresh_paths.get(key, ()):
            self._add_fresh_path(key, path)
            return PageCacheMode.DROP
        return PageCacheMode.KEEP

    def _add_fresh_path(self, key: ArchiveKey, path: str) -> None:
        """Note that the pages of *path* are dropped.

        If there are too many paths, forget those of the first archive. If it is this one, note no
        more: otherwise a pass over its files would always find the paths of other files.
        """
        paths = self._fresh_paths.setdefault(key, set())
        if self._fresh_count >= MAX_FRESH_PATHS:
            oldest = next(iter(self._fresh_paths))
            if oldest == key:
                return
            self._forget_fresh_paths(oldest)
        paths.add(path)
        self._fresh_count += 1

    def _forget_fresh_paths(self, key: ArchiveKey) -> None:
        self._fresh_count -= len(self._fresh_paths.pop(key, ()))

"""`taskfs.tree.page_cache`: what the kernel may keep of the versions of an archive."""

import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable

import pytest

from taskfs.model import ObjectVersion
from taskfs.tasks.archive_kind import ArchiveKey, ArchiveKind
from taskfs.tree.lifetime import Lifetime
from taskfs.tree.page_cache import PageCache, PageCacheMode
from tests.unit.fakes import Clock

ARCHIVE = ArchiveKey("t", ArchiveKind.OUTPUT)
OLD = ObjectVersion(1000, '"1"')
NEW = ObjectVersion(900, '"2"')
KEEP, DROP, DIRECT = PageCacheMode


@pytest.fixture
def page_cache(clock: Clock) -> PageCache:
    """A page cache with an attr timeout of 1 s, to which the old version was loaded."""
    page_cache = PageCache(1.0, clock)
    page_cache.note_version(ARCHIVE, OLD)
    return page_cache


def test_no_lifetime_is_computed_while_the_version_changes(clock: Clock) -> None:
    """F-10: A listing of the older version that is computed while the kernel is notified of the
    next one is not kept until the version after that."""
    page_cache = PageCache(1.0, clock)
    page_cache.note_version(ARCHIVE, OLD)
    found: list[Lifetime] = []
    reader = threading.Thread(target=lambda: found.append(page_cache.lifetime(ARCHIVE, OLD)))

    def invalidate(path: str, done: Callable[[], None]) -> None:
        reader.start()
        reader.join(0.2)

    page_cache.keep_versions(invalidate)
    assert page_cache.lifetime(ARCHIVE, OLD) is Lifetime.VERSION
    page_cache.note_version(ARCHIVE, NEW)
    reader.join()
    assert found == [Lifetime.TIMEOUT]


def open_once(page_cache: PageCache, version: ObjectVersion, path: str = "a") -> PageCacheMode:
    """Open and close *path*; return how the kernel may cache it."""
    lease = page_cache.lease(ARCHIVE, version, path, 1)
    page_cache.release(lease)
    return lease.mode


def test_the_kernel_keeps_the_pages_of_one_version(page_cache: PageCache) -> None:
    """F-9: The kernel keeps the pages of one version (`keep_cache`)."""
    assert [open_once(page_cache, OLD) for _ in range(3)] == [KEEP] * 3


def test_while_an_older_version_is_open_nothing_is_cached(
    page_cache: PageCache, clock: Clock
) -> None:
    """F-9: While an older version is open, new opens bypass the page cache and `st_size` does not
    shrink."""
    lease = page_cache.lease(ARCHIVE, OLD, "a", 9)
    assert lease.mode is KEEP
    page_cache.note_version(ARCHIVE, NEW)
    clock.tick(60)
    assert open_once(page_cache, NEW) is DIRECT
    assert open_once(page_cache, OLD) is DIRECT
    assert open_once(page_cache, NEW, "b") is DROP
    assert page_cache.reported_size(ARCHIVE, "a", 5) == 9
    assert page_cache.reported_size(ARCHIVE, "b", 17) == 17
    assert page_cache.is_outdated(lease)
    page_cache.release(lease)
    assert page_cache.reported_size(ARCHIVE, "a", 5) == 5
    assert [open_once(page_cache, NEW) for _ in range(3)] == [DROP, KEEP, KEEP]
    assert open_once(page_cache, NEW, "b") is KEEP


def test_until_the_kernel_has_asked_again_nothing_is_cached(
    page_cache: PageCache, clock: Clock
) -> None:
    """F-9: Until the kernel has asked for attributes again, nothing of a new version is cached."""
    page_cache.note_version(ARCHIVE, NEW)
    assert open_once(page_cache, NEW) is DIRECT
    clock.tick(1.6)
    assert open_once(page_cache, NEW) is DROP


class Kernel:
    """The paths that were to be invalidated, and the functions to call then."""

    def __init__(self, page_cache: PageCache) -> None:
        self.asked: list[str] = []
        self.waiting: list[Callable[[], None]] = []
        page_cache.keep_versions(self._invalidate)

    def _invalidate(self, path: str, done: Callable[[], None]) -> None:
        self.asked.append(path)
        self.waiting.append(done)


def assert_kept_once_dropped(page_cache: PageCache, kernel: Kernel, clock: Clock) -> None:
    """The kernel may keep `NEW` only after it has dropped `OLD` and has the answers in flight."""
    clock.tick(100)
    assert open_once(page_cache, NEW) is DIRECT
    assert page_cache.lifetime(ARCHIVE, NEW) is Lifetime.TIMEOUT
    for note_dropped in kernel.waiting:
        note_dropped()
    clock.tick(1.4)
    assert open_once(page_cache, NEW) is DIRECT
    clock.tick(0.2)
    assert open_once(page_cache, NEW) is DROP
    assert page_cache.lifetime(ARCHIVE, NEW) is Lifetime.VERSION


def test_a_version_is_kept_until_another_one_is_loaded(page_cache: PageCache, clock: Clock) -> None:
    """F-10, F-9: The kernel may keep what belongs to the version in use. When another one is
    loaded, the kernel is notified. Until then, and for answers in flight, nothing of the new
    version is cached."""
    assert page_cache.lifetime(ARCHIVE, OLD) is Lifetime.TIMEOUT
    kernel = Kernel(page_cache)
    assert page_cache.lifetime(ARCHIVE, OLD) is Lifetime.VERSION
    assert page_cache.lifetime(ARCHIVE, NEW) is Lifetime.TIMEOUT
    changes = page_cache.changes
    page_cache.note_version(ARCHIVE, OLD)
    assert kernel.asked == [] and page_cache.changes == changes
    page_cache.note_version(ARCHIVE, NEW)
    assert kernel.asked == ["t/outputs"] and page_cache.changes > changes
    assert_kept_once_dropped(page_cache, kernel, clock)


def test_a_version_that_was_never_kept_needs_no_message(
    page_cache: PageCache, clock: Clock
) -> None:
    """F-10: The kernel is notified only of paths that it may have kept."""
    kernel = Kernel(page_cache)
    page_cache.note_version(ARCHIVE, NEW)
    page_cache.note_dropped(ARCHIVE)
    assert kernel.asked == []
    clock.tick(1.6)
    assert open_once(page_cache, NEW) is DROP


def test_an_archive_that_is_dropped_is_asked_for_again(page_cache: PageCache) -> None:
    """F-10, N-21: After a refresh the kernel asks again; the same version is kept again."""
    kernel = Kernel(page_cache)
    assert page_cache.lifetime(ARCHIVE, OLD) is Lifetime.VERSION
    page_cache.note_dropped(ARCHIVE)
    page_cache.note_dropped(ARCHIVE)
    assert kernel.asked == ["t/outputs"]
    assert open_once(page_cache, OLD) is KEEP
    page_cache.note_version(ARCHIVE, OLD)
    assert page_cache.lifetime(ARCHIVE, OLD) is Lifetime.VERSION


def test_the_names_of_a_dropped_archive_are_dropped_once_the_next_version_is_loaded(
    page_cache: PageCache,
) -> None:
    """F-10: Which names are of another type now is known only when the new version is loaded, so
    the kernel is notified once more."""
    kernel = Kernel(page_cache)
    assert page_cache.lifetime(ARCHIVE, OLD) is Lifetime.VERSION
    page_cache.note_dropped(ARCHIVE)
    page_cache.note_dropped(ARCHIVE)
    page_cache.note_version(ARCHIVE, OLD)
    assert len(kernel.asked) == 1
    page_cache.note_version(ARCHIVE, NEW)
    assert len(kernel.asked) == 2


def test_a_new_version_before_the_kernel_has_dropped_the_old_one(
    page_cache: PageCache, clock: Clock
) -> None:
    """F-9, F-10: A refresh whose message to the kernel is late, and a new version meanwhile: until
    the kernel has dropped the sizes of the old one, it cuts no file at them."""
    kernel = Kernel(page_cache)
    assert page_cache.lifetime(ARCHIVE, OLD) is Lifetime.VERSION
    page_cache.note_dropped(ARCHIVE)
    page_cache.note_version(ARCHIVE, NEW)
    assert_kept_once_dropped(page_cache, kernel, clock)


def test_while_an_older_version_is_open_attributes_expire(
    page_cache: PageCache, clock: Clock
) -> None:
    """F-10, F-9: While a file of an older version is open, sizes depend on it, so they expire."""
    Kernel(page_cache)
    lease = page_cache.lease(ARCHIVE, OLD, "a", 9)
    page_cache.note_version(ARCHIVE, NEW)
    clock.tick(10)
    assert page_cache.lifetime(ARCHIVE, NEW) is Lifetime.TIMEOUT
    page_cache.release(lease)
    assert page_cache.lifetime(ARCHIVE, NEW) is Lifetime.VERSION


def test_without_an_attr_timeout_nothing_is_kept(clock: Clock) -> None:
    """F-10: With `--attr-timeout 0` the kernel asks each time."""
    page_cache = PageCache(0.0, clock)
    Kernel(page_cache)
    page_cache.note_version(ARCHIVE, OLD)
    assert page_cache.lifetime(ARCHIVE, OLD) is Lifetime.TIMEOUT


def test_the_same_version_loaded_again_is_not_a_new_one(page_cache: PageCache) -> None:
    """N-21: After a refresh the same version is no new one, but the pages are dropped once, because
    nothing says which were verified."""
    lease = page_cache.lease(ARCHIVE, OLD, "a", 1)
    page_cache.note_version(ARCHIVE, OLD)
    assert not page_cache.is_outdated(lease)
    assert [open_once(page_cache, OLD) for _ in range(2)] == [DROP, KEEP]


def test_pages_that_may_be_damaged_are_dropped_once(page_cache: PageCache) -> None:
    """I-5: After a mismatch the next open starts without the kernel's pages."""
    lease = page_cache.lease(ARCHIVE, OLD, "a", 1)
    page_cache.note_damaged(lease)
    page_cache.release(lease)
    assert open_once(page_cache, OLD, "b") is KEEP
    assert [open_once(page_cache, OLD) for _ in range(2)] == [DROP, KEEP]


def test_open_files_are_counted(page_cache: PageCache) -> None:
    """R-20: Open files are counted, so their archive is not evicted."""
    leases = [page_cache.lease(ARCHIVE, OLD, "a", 1) for _ in range(2)]
    for lease in leases:
        assert page_cache.has_open_files(ARCHIVE)
        page_cache.release(lease)
    assert not page_cache.has_open_files(ARCHIVE)
    assert not page_cache.has_open_files(ArchiveKey("other", ArchiveKind.INPUT))


def test_files_that_were_read_take_no_memory(clock: Clock) -> None:
    """R-20, R-56: A mount remembers little of many archives that were loaded again and read."""
    page_cache = PageCache(1.0, clock)
    tracemalloc.start()
    try:
        for number in range(300):
            key = ArchiveKey(f"{number:025d}", ArchiveKind.OUTPUT)
            version = ObjectVersion(number, f'"{number:032x}"')
            for _ in range(2):
                page_cache.note_version(key, version)
            for file in range(300):
                page_cache.release(page_cache.lease(key, version, f"folder/{file}", 1))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 300 * 1024 + (5 << 20)


def test_most_pages_of_a_large_archive_are_kept(page_cache: PageCache) -> None:
    """F-9, R-56: Of an archive with many files that was loaded again, the kernel keeps the pages of
    most files, also where another such archive was read before."""
    other = ArchiveKey("other", ArchiveKind.INPUT)
    for key in (other, ARCHIVE):
        for _ in range(2):
            page_cache.note_version(key, OLD)

    def read_all(key: ArchiveKey) -> Counter[PageCacheMode]:
        modes: Counter[PageCacheMode] = Counter()
        for file in range(20_000):
            lease = page_cache.lease(key, OLD, f"folder/{file}", 1)
            page_cache.release(lease)
            modes[lease.mode] += 1
        return modes

    for key in (other, ARCHIVE):
        assert read_all(key) == {DROP: 20_000}
        for _ in range(2):
            assert read_all(key) == {KEEP: 16_384, DROP: 20_000 - 16_384}

"""`DirectoryCache`: which listings the kernel may keep."""

from taskfs.fuse.kernel.directory_cache import DirectoryCache
from taskfs.fuse.kernel.protocol import OpenFlag

FILL = OpenFlag.CACHE_DIR
USE = OpenFlag.CACHE_DIR | OpenFlag.KEEP_CACHE


def test_a_listing_is_kept_while_its_contents_are_equal() -> None:
    """F-10: The first open fills the kernel's copy, later ones use it; other contents fill it
    again."""
    cache = DirectoryCache()
    for contents, flags in (("a", FILL), ("a", USE), ("b", FILL), ("b", USE), ("a", FILL)):
        assert cache.open(7, contents) == flags
        cache.close(7, contents)


def test_what_may_change_is_not_kept() -> None:
    """F-10: A directory whose contents may change is listed anew each time."""
    cache = DirectoryCache()
    for contents, flags in (("a", FILL), (None, 0), ("a", FILL)):
        assert cache.open(7, contents) == flags
        cache.close(7, contents)


def test_an_open_directory_with_older_contents_prevents_a_copy() -> None:
    """F-10: While a directory with older contents is open, the kernel keeps none: names of the
    older version could get into the copy."""
    cache = DirectoryCache()
    assert cache.open(7, "old") == FILL
    assert cache.open(7, "new") == 0
    cache.close(7, "old")
    assert cache.open(7, "new") == FILL
    cache.close(7, "new")
    cache.close(7, "new")
    assert cache.open(7, "new") == USE


def test_a_forgotten_directory_begins_anew() -> None:
    """F-10, R-20: Nothing is kept of a directory that the kernel has forgotten."""
    cache = DirectoryCache()
    cache.open(7, "a")
    cache.close(7, "a")
    cache.forget(7)
    assert cache.open(7, "a") == FILL

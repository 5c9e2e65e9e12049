"""Calls that only make taskfs faster: where the system refuses one, the plain way is taken, and one
debug line says so."""

import ctypes
import errno
import fcntl
import logging
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from taskfs.cache.block import BLOCK
from taskfs.cache.disk_cache import DiskCache, cache_key
from taskfs.cache.range_locks import lock_range
from taskfs.errors import MountError
from taskfs.fuse import process_memory as memory
from taskfs.fuse.stderr_capture import explain_mount_errors
from taskfs.support import fallback
from taskfs.support.buffers import POOLED_SIZES, allocate, trim_pools
from taskfs.support.clock import age_clock

REFUSALS: Final = (
    OSError(errno.EINVAL, "Invalid argument"),
    OSError(errno.ENOSYS, "Function not implemented"),
    PermissionError(errno.EPERM, "Operation not permitted"),
    AttributeError("missing"),
)
KEY: Final = cache_key("an object")


@pytest.fixture(autouse=True)
def _nothing_logged_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fallback, "logged_calls", set())
    trim_pools()
    yield
    trim_pools()


@pytest.fixture(params=REFUSALS, ids=str)
def refuse(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A call that the system refuses."""

    def refuse(*args: Any, **options: Any) -> Any:
        raise request.param

    return refuse


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The calls that the log says are refused."""
    caplog.set_level(logging.DEBUG, "taskfs")

    def logged() -> list[str]:
        # Threads of earlier tests may log as well.
        records = [record for record in caplog.records if record.name == fallback.log.name]
        levels = {record.levelno for record in records}
        assert levels <= {logging.DEBUG}
        messages = [record.getMessage() for record in records]
        return [text.removeprefix("the system refuses ").split(" (")[0] for text in messages]

    return logged


def refusing_map(refuse: Callable[..., Any]) -> type:
    class Map(mmap.mmap):
        madvise = refuse

    return Map


def test_without_huge_pages(
    refuse: Callable[..., Any],
    logged: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R-26: Without transparent huge pages (EINVAL) large reads work, and the log says it once."""
    monkeypatch.setattr(mmap, "mmap", refusing_map(refuse))
    for size in (*POOLED_SIZES, POOLED_SIZES[-1] + 1) * 3:
        rooms = [allocate(size) for _ in range(2)]
        for room in rooms:
            room[:] = b"x" * size
    assert logged() == ["madvise"]


def test_without_mappings(logged: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """R-26: Without a free mapping (ENOMEM at vm.max_map_count) reads work."""

    def refuse(*args: Any, **options: Any) -> Any:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    class Map(mmap.mmap):
        def __new__(cls, *args: Any, **options: Any) -> "Map":
            return refuse()  # type: ignore[no-any-return]

    monkeypatch.setattr(mmap, "mmap", Map)
    for size in (*POOLED_SIZES, POOLED_SIZES[-1] + 1) * 2:
        room = allocate(size)
        room[:] = b"x" * size
        assert len(room) == size
    assert logged() == ["mmap"]


def test_without_direct_writes(
    refuse: Callable[..., Any],
    logged: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """R-26, R-17: Without O_DIRECT (EINVAL) the cache is written through the page cache."""
    real = os.open

    def opened(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_DIRECT:
            refuse()
        return real(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", opened)
    run = allocate(16 * BLOCK)
    run[:] = b"x" * len(run)
    blocks = DiskCache(tmp_path / "cache", 1 << 30).blocks_of(KEY)
    for first in (0, 16):
        blocks.put(first, run)
    assert bytes(blocks.get(0, 16) or b"") == bytes(run)
    assert logged() == ["O_DIRECT"]


def test_without_locks(
    refuse: Callable[..., Any],
    logged: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """R-26, R-15: Without F_OFD_SETLK two processes may fetch the same block, and neither waits."""
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    began = time.monotonic()
    for _ in range(2):
        with lock_range(tmp_path / "locks", KEY, 0, 0, lambda: False):
            pass
    assert time.monotonic() - began < 5  # a lock that is held would be waited for twice as long
    assert logged() == ["F_OFD_SETLK"]


def test_without_the_boot_clock(
    refuse: Callable[..., Any],
    logged: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R-26, F-16: Without CLOCK_BOOTTIME ages go by the monotonic clock."""
    monkeypatch.setattr(time, "clock_gettime", refuse)
    first = age_clock()
    assert age_clock() >= first
    assert abs(first - time.monotonic()) < 60
    assert logged() == ["CLOCK_BOOTTIME"]


@pytest.mark.parametrize("disk", ["a disk", "no disk"])
def test_without_files_in_memory(
    disk: str,
    refuse: Callable[..., Any],
    logged: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """R-26, E-6: Without memfd_create the output of fusermount is still reported, if there is a
    disk to keep it."""
    monkeypatch.setattr(os, "memfd_create", refuse)
    if disk == "no disk":
        monkeypatch.setattr("tempfile.TemporaryFile", refuse_with(errno.EROFS))
    with pytest.raises(MountError) as caught, explain_mount_errors(str(tmp_path)):
        os.write(2, b"fusermount: too many FUSE filesystems mounted\n")
        raise MountError("libfuse could not mount")
    if disk == "a disk":
        assert "mount_max" in str(caught.value)
        assert logged() == ["memfd_create"]
    else:
        assert "libfuse could not mount" in str(caught.value)
        assert logged() == ["memfd_create", "a temporary file"]


def refuse_with(number: int) -> Callable[..., Any]:
    def refuse(*args: Any, **options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return refuse


class _OldLibrary:
    """A C library with a mallopt that knows no parameter, and without malloc_trim."""

    def mallopt(self, parameter: int, value: int) -> int:
        return 0


def test_without_glibc(logged: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """R-26: Without mallopt(3) and malloc_trim(3), as with musl, all works."""

    monkeypatch.setattr(memory, "TRIM_S", 0.01)
    for library in (refuse_with(errno.ENOENT), lambda name: object(), lambda name: _OldLibrary()):
        monkeypatch.setattr(ctypes, "CDLL", library)
        monkeypatch.setattr(fallback, "logged_calls", set())
        memory.tune()
        ended = threading.Event()
        threading.Timer(0.05, ended.set).start()
        memory.trim_until(ended)
    assert logged() == ["mallopt", "malloc_trim"] * 3

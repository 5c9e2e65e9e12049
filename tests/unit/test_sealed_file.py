"""`taskfs.cache.sealed_file`: content that is read by pages, and any damage is a miss."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from taskfs.cache import sealed_file
from taskfs.cache.disk_cache import FORMAT, DiskCache, cache_key
from taskfs.cache.eviction import INDEXES, cached_files, remove_file
from taskfs.cache.sealed_file import SUM_PAGE, SealedFile, SealedWriter, read_sealed
from taskfs.errors import CacheChanged
from tests.caches import read_index, small_disk, write_index

KIND: Final = b"a kind of content 1\n"
KEY: Final = cache_key("key")
SHORT: Final = b"short content"
IN_MEMORY: Final = 1 << 20
LONG: Final = random.Random(1).randbytes(2 * IN_MEMORY + 3)


def write(directory: Path | None, content: bytes, name: str = KEY) -> bytes:
    """Write a sealed file in pieces, and return the content that the writer returns."""
    writer = SealedWriter(name, directory)
    for at in range(0, len(content), 100_000):
        writer.write(content[at : at + 100_000])
    sealed = writer.seal(KIND)
    writer.publish()
    return sealed[: len(sealed)]


def read_whole(path: Path, kind: bytes = KIND) -> bytes | None:
    """Return the content, None for a miss: at once, or when the damaged page is read."""
    try:
        found = read_sealed(path, kind)
        return None if found is None else found[: len(found)]
    except CacheChanged:
        return None


def _remove_all(cache: DiskCache) -> None:
    for _, _, path in cached_files(cache.root):
        remove_file(path)


@pytest.mark.parametrize("content", [b"", SHORT, LONG], ids=["empty", "short", "long"])
def test_content_is_read_back(tmp_path: Path, content: bytes) -> None:
    """R-13: A later mount reads the content that was sealed; long content stays in its file."""
    assert write(tmp_path, content) == content
    found = read_sealed(tmp_path / KEY, KIND)
    assert found is not None and len(found) == len(content)
    assert isinstance(found, SealedFile) == (len(content) > IN_MEMORY)
    assert os.listdir(tmp_path) == [KEY]
    rng = random.Random(len(content))
    for _ in range(300):
        start = rng.randrange(len(content) + 10)
        stop = start + rng.choice([0, 1, 100, SUM_PAGE, 5 * SUM_PAGE])
        assert found[start:stop] == content[start:stop]


@pytest.mark.parametrize("content", [SHORT, LONG], ids=["short", "long"])
def test_a_damaged_file_is_a_miss(tmp_path: Path, content: bytes) -> None:
    """I-7: A file with a wrong byte, a cut one and one under another's name are misses."""
    write(tmp_path, content)
    path = tmp_path / KEY
    whole = path.read_bytes()
    rng = random.Random(2)
    for _ in range(20):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert read_whole(path) is None
        path.write_bytes(whole[: rng.randrange(len(whole))])
        assert read_whole(path) is None
        path.write_bytes(whole + bytes(rng.randrange(1, 99)))
        assert read_whole(path) is None
    path.write_bytes(whole)
    assert read_whole(path) == content
    assert read_whole(path, b"a kind of content 2\n") is None
    path.rename(tmp_path / cache_key("other"))
    assert read_whole(tmp_path / cache_key("other")) is None
    assert read_whole(path) is None


@pytest.mark.parametrize("cut", [0, SUM_PAGE // 2, IN_MEMORY])
def test_a_file_that_is_cut_in_use_is_a_miss(tmp_path: Path, cut: int) -> None:
    """I-7, R-51: A program that cuts the file in place ends no process that uses it, and gives it
    no wrong byte: a read is right, or is refused as a miss."""
    write(tmp_path, LONG)
    path = tmp_path / KEY
    found = read_sealed(path, KIND)
    assert isinstance(found, SealedFile) and found[:10] == LONG[:10] and not found.is_lost
    os.truncate(path, cut)
    assert found[:10] == LONG[:10]  # this page is in memory
    if cut > SUM_PAGE:
        assert found[cut - SUM_PAGE : cut] == LONG[cut - SUM_PAGE : cut]
    with pytest.raises(CacheChanged):
        found[len(LONG) - 10 : len(LONG)]
    assert found.is_lost


def test_a_file_that_is_overwritten_in_use_is_a_miss(tmp_path: Path) -> None:
    """I-7: Other bytes of the same length are refused, too."""
    write(tmp_path, LONG)
    found = read_sealed(tmp_path / KEY, KIND)
    assert found is not None
    with (tmp_path / KEY).open("r+b") as file:
        file.write(bytes(2 * SUM_PAGE))
    assert found[2 * SUM_PAGE :][: len(LONG)] == LONG[2 * SUM_PAGE :]
    with pytest.raises(CacheChanged):
        found[:1]


def test_a_file_that_cannot_be_read_any_more_is_a_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I-7: A page that the disk cannot read, or that a file server no longer has, is a miss."""
    write(tmp_path, LONG)
    found = read_sealed(tmp_path / KEY, KIND)
    assert isinstance(found, SealedFile)

    def fail(*arguments: object) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        with pytest.raises(CacheChanged):
            found[:1]
    assert found.is_lost


def test_a_file_is_replaced_and_removed_while_it_is_in_use(tmp_path: Path) -> None:
    """R-13: A file in use keeps its content when another one takes its name, or none."""
    first = write(tmp_path, LONG)
    found = read_sealed(tmp_path / KEY, KIND)
    write(tmp_path, LONG[::-1])
    (tmp_path / KEY).unlink()
    assert found is not None and found[: len(found)] == first


def test_eviction_does_not_empty_an_index_in_use(tmp_path: Path) -> None:
    """R-14: An index that is evicted keeps its content for the processes that use it."""
    cache = DiskCache(tmp_path, 8 << 20)
    writer = cache.create_sealed(INDEXES, KEY, len(LONG), 0)
    writer.write(LONG)
    writer.seal(KIND)
    cache.publish_sealed(writer, cache.last_drop_ns())
    found = cache.read_sealed(INDEXES, KEY, KIND)
    assert isinstance(found, SealedFile)
    os.utime(tmp_path / FORMAT / INDEXES / KEY, (1, 1))
    for number in range(5):
        write_index(cache, cache_key(number), random.Random(number).randbytes(4 << 20))
    assert cache.read_sealed(INDEXES, KEY, KIND) is None
    assert found[: len(LONG)] == LONG


def test_scratch_files_count_as_long_as_an_index_is_built(tmp_path: Path) -> None:
    """R-25: An index is only built on the cache's disk if its scratch files leave 5 % free too."""
    with small_disk(tmp_path, 64 << 20):
        cache = DiskCache(tmp_path, 1 << 30)
        assert not cache.create_sealed(INDEXES, KEY, 20 << 20, 30 << 20).is_private
        assert cache.create_sealed(INDEXES, KEY, 20 << 20, 45 << 20).is_private


def test_a_cache_too_small_keeps_no_index(tmp_path: Path) -> None:
    """R-14: An index that takes more than half of the cache is used, but not kept."""
    cache = DiskCache(tmp_path, 3 << 20)
    writer = cache.create_sealed(INDEXES, KEY, len(LONG), 0)
    writer.write(LONG)
    content = writer.seal(KIND)
    cache.publish_sealed(writer, cache.last_drop_ns())
    writer.discard()
    assert content[: len(LONG)] == LONG
    assert os.listdir(tmp_path / FORMAT / INDEXES) == []
    assert cache.read_sealed(INDEXES, KEY, KIND) is None


@pytest.mark.parametrize("is_other_full", [False, True])
def test_a_disk_that_becomes_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_other_full: bool
) -> None:
    """R-16, R-27: A disk that becomes full while a file is written loses no content: it goes on in
    a temporary file without a name, and in memory only if that disk is full too."""
    written = 0
    original = os.write

    def write_until_full(descriptor: int, piece: memoryview) -> int:
        nonlocal written
        if written > IN_MEMORY and (is_other_full or os.fstat(descriptor).st_nlink):
            raise OSError(28, "No space left on device")
        count = original(descriptor, piece[:60_000])
        written += count
        return count

    monkeypatch.setattr(os, "write", write_until_full)
    writer = SealedWriter(KEY, tmp_path)
    for at in range(0, len(LONG), 100_000):
        writer.write(LONG[at : at + 100_000])
    sealed = writer.seal(KIND)
    writer.publish()
    monkeypatch.undo()
    assert sealed[: len(sealed)] == LONG
    assert isinstance(sealed, SealedFile) is not is_other_full
    assert os.listdir(tmp_path) == []


def test_a_disk_that_becomes_full_as_an_index_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-16, R-25: An index that is stored after an eviction is whole."""
    original, failures = os.write, 1

    def write_until_full(descriptor: int, piece: memoryview) -> int:
        nonlocal failures
        if len(piece) > 4096:
            return original(descriptor, piece[:4096])
        if failures:
            failures -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(descriptor, piece)

    cache = DiskCache(tmp_path, 8 << 20)
    for number in range(20):
        write_index(cache, cache_key(number), LONG[:100_000])
    monkeypatch.setattr(os, "write", write_until_full)
    write_index(cache, KEY, LONG[:100_000])
    assert failures == 0
    assert read_index(cache, KEY) == LONG[:100_000]
    assert not any(name.startswith(".") for name in os.listdir(tmp_path / FORMAT / INDEXES))


@pytest.mark.parametrize("clear", [DiskCache.drop_indexes, _remove_all], ids=["refresh", "clear"])
def test_indexes_are_removed_while_another_one_is_built(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clear: Callable[[DiskCache], None]
) -> None:
    """N-21, C-43: An index that is built while others are removed, by a refresh or by `taskfs cache
    --clear`, is not stored and stops no later write."""
    cache = DiskCache(tmp_path, 8 << 20)
    write_index(cache, cache_key("old"), SHORT)
    with cache.lock_index(KEY):
        last_drop_ns = cache.last_drop_ns()
        writer = cache.create_sealed(INDEXES, KEY, len(LONG), 0)
        writer.write(LONG)
        clear(DiskCache(tmp_path, 8 << 20))
        content = writer.seal(KIND)
        cache.publish_sealed(writer, last_drop_ns)
    assert content[: len(LONG)] == LONG
    assert os.listdir(tmp_path / FORMAT / INDEXES) == []
    write_index(cache, cache_key("new"), SHORT)
    assert read_index(cache, cache_key("new")) == SHORT
    assert not caplog.records


@pytest.mark.parametrize("moment_s", [0.0, 0.01, 0.05, 0.1])
def test_a_writer_that_is_killed_leaves_no_wrong_file(tmp_path: Path, moment_s: float) -> None:
    """R-16: After kill -9 of a writer, its file is whole or missing."""
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from taskfs.cache.sealed_file import SealedWriter\n"
        f"print('go', flush=True)\n"
        "while True:\n"
        f"    writer = SealedWriter({KEY!r}, Path(sys.argv[1]))\n"
        f"    for n in range(30): writer.write(bytes([n]) * 100_000)\n"
        f"    writer.seal({KIND!r})\n"
        "    writer.publish()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"go\n"
        time.sleep(moment_s)
        writer.send_signal(signal.SIGKILL)
    expected = b"".join(bytes([n]) * 100_000 for n in range(30))
    assert read_whole(tmp_path / KEY) == (expected if (tmp_path / KEY).exists() else None)


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Y-1: A link in the place of a file is a miss."""
    write(tmp_path, SHORT, "target")
    (tmp_path / KEY).symlink_to(tmp_path / "target")
    assert read_sealed(tmp_path / KEY, KIND) is None
    assert sealed_file.read_sealed(tmp_path / "target", KIND) is not None

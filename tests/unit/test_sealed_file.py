"""`taskfs.cache.sealed_file`: content that is mapped, and a miss whatever happened to its file."""

import mmap
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from taskfs.cache import sealed_file
from taskfs.cache.disk_cache import FORMAT, INDEX, DiskCache, cache_key
from taskfs.cache.sealed_file import IN_MEMORY, SealedWriter, read_sealed

KIND: Final = b"a kind of content 1\n"
KEY: Final = cache_key("key")
SHORT: Final = b"short content"
LONG: Final = random.Random(1).randbytes(2 * IN_MEMORY + 3)


def write(directory: Path | None, content: bytes, name: str = KEY) -> bytes:
    """Write a sealed file in pieces, and return the content that the writer returns."""
    writer = SealedWriter(name, directory)
    for at in range(0, len(content), 100_000):
        writer.write(content[at : at + 100_000])
    sealed = writer.seal(KIND)
    writer.publish()
    return bytes(sealed[:])


@pytest.mark.parametrize("content", [b"", SHORT, LONG], ids=["empty", "short", "long"])
def test_content_is_read_back(tmp_path: Path, content: bytes) -> None:
    """R-13: A later mount reads the content that was sealed; long content is mapped."""
    sealed = write(tmp_path, content)
    found = read_sealed(tmp_path / KEY, KIND)
    assert found is not None
    assert isinstance(found, mmap.mmap) == (len(content) > IN_MEMORY)
    assert found[:] == sealed and sealed.startswith(content)
    assert os.listdir(tmp_path) == [KEY]


@pytest.mark.parametrize("content", [SHORT, LONG], ids=["short", "long"])
def test_a_damaged_file_is_a_miss(tmp_path: Path, content: bytes) -> None:
    """I-7: A file with a wrong byte, a cut one and one under another's name are misses."""
    write(tmp_path, content)
    path = tmp_path / KEY
    whole = path.read_bytes()
    path.chmod(0o600)
    rng = random.Random(2)
    for _ in range(20):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert read_sealed(path, KIND) is None
        path.write_bytes(whole[: rng.randrange(len(whole))])
        assert read_sealed(path, KIND) is None
    path.write_bytes(whole)
    assert read_sealed(path, KIND) is not None
    assert read_sealed(path, b"a kind of content 2\n") is None
    path.rename(tmp_path / cache_key("other"))
    assert read_sealed(tmp_path / cache_key("other"), KIND) is None
    assert read_sealed(path, KIND) is None


def test_a_file_is_replaced_and_removed_while_it_is_mapped(tmp_path: Path) -> None:
    """R-13: A mapped file keeps its content when another one takes its name, or none."""
    first = write(tmp_path, LONG)
    found = read_sealed(tmp_path / KEY, KIND)
    write(tmp_path, LONG[::-1])
    (tmp_path / KEY).unlink()
    assert found is not None and found[:] == first


def test_eviction_does_not_empty_a_mapped_file(tmp_path: Path) -> None:
    """R-14: A mapped index that is evicted keeps its content: its reader must not die."""
    cache = DiskCache(tmp_path, 8 << 20)
    writer = cache.create_sealed(INDEX, KEY, len(LONG))
    writer.write(LONG)
    writer.seal(KIND)
    cache.publish_sealed(writer)
    found = cache.read_sealed(INDEX, KEY, KIND)
    assert isinstance(found, mmap.mmap)
    os.utime(tmp_path / FORMAT / INDEX / KEY, (1, 1))
    for number in range(5):
        cache.write_blob("index", cache_key(number), b"", random.Random(number).randbytes(4 << 20))
    assert cache.read_sealed(INDEX, KEY, KIND) is None
    assert found[: len(LONG)] == LONG


def test_a_cache_too_small_keeps_no_index(tmp_path: Path) -> None:
    """R-14: An index that takes more than half of the cache is used, but not kept."""
    cache = DiskCache(tmp_path, 3 << 20)
    writer = cache.create_sealed(INDEX, KEY, len(LONG))
    writer.write(LONG)
    content = writer.seal(KIND)
    cache.publish_sealed(writer)
    writer.discard()
    assert content[: len(LONG)] == LONG
    assert os.listdir(tmp_path / FORMAT / INDEX) == []
    assert cache.read_sealed(INDEX, KEY, KIND) is None


def test_a_full_disk_leaves_the_content_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-16: A disk that becomes full while a file is written loses no content."""
    written = 0
    original = os.write

    def write_until_full(descriptor: int, piece: memoryview) -> int:
        nonlocal written
        if written > IN_MEMORY:
            raise OSError(28, "No space left on device")
        written += len(piece)
        return original(descriptor, piece)

    monkeypatch.setattr(os, "write", write_until_full)
    sealed = write(tmp_path, LONG)
    monkeypatch.undo()
    assert sealed.startswith(LONG)
    assert os.listdir(tmp_path) == []


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
    found = read_sealed(tmp_path / KEY, KIND)
    expected = b"".join(bytes([n]) * 100_000 for n in range(30))
    assert found is None or found[: len(expected)] == expected


def test_a_mapped_file_is_not_writable(tmp_path: Path) -> None:
    """Y-1: A file that processes map is 0400, so that no program cuts it by mistake."""
    write(tmp_path, LONG)
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) == 0o400
    write(tmp_path, SHORT)
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) == 0o600


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Y-1: A link in the place of a file is a miss."""
    write(tmp_path, SHORT, "target")
    (tmp_path / KEY).symlink_to(tmp_path / "target")
    assert read_sealed(tmp_path / KEY, KIND) is None
    assert sealed_file.read_sealed(tmp_path / "target", KIND) is not None

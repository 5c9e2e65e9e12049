"""Shared set-up for tests of the disk cache: tasks with files, and the cached files on disk."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest

from taskfs.archive.index_layout import KIND
from taskfs.cache.disk_cache import DiskCache
from taskfs.cache.eviction import INDEXES
from taskfs.cache.sealed_file import SUM_PAGE, read_sealed
from taskfs.errors import CacheChanged
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, InProcess, assert_same, walk
from tests.mounts import Mount
from tests.outputs import Files, noise

SEGMENT: Final = 4 << 20
_KIND: Final = b"a kind of index\n"
MountFactory = Callable[..., contextlib.AbstractContextManager[Mount]]
TreeFactory = Callable[..., contextlib.AbstractContextManager[InProcess]]


def make_files(seed: int) -> Files:
    return {
        "small": b"a few bytes of %d\n" % seed,
        "text": b"".join(b"%d line of %d\n" % (number, seed) for number in range(60_000)),
        "deep/noise": noise(seed, 700_000),
    }


def check_outputs(fs: FileSystem, task: str, files: Files) -> None:
    """Fail unless the task's outputs are exactly *files*."""
    assert sorted(walk(fs, f"{task}/outputs")) == sorted(files)
    for name, body in files.items():
        assert fs.stat(f"{task}/outputs/{name}").st_size == len(body)
        assert_same(fs.read(f"{task}/outputs/{name}"), body)


def archive_requests(cloud: FakeCloud) -> list[str]:
    """Return the requests that concern archives: those to the store and those for signed URLs."""
    return [
        f"{record.side} {record.path}"
        for record in cloud.requests
        if record.side == "store" or "url" in record.path or "output" in record.path
    ]


def cached_files(cache: Path, kind: str) -> list[Path]:
    return sorted(path for path in (cache / "v1" / kind).rglob("*") if path.is_file())


def disk_use(cache: Path) -> int:
    total = 0
    for top, _, names in os.walk(cache):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(top, name).lstat().st_blocks * 512
    return total


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Put *folder* on a disk of *size* bytes: a tmpfs as root, else a patched statvfs(2)."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    with pytest.MonkeyPatch.context() as patch:

        def statvfs(path: object) -> SimpleNamespace:
            free = max(0, size - disk_use(folder)) // 4096
            return SimpleNamespace(f_blocks=size // 4096, f_bavail=free, f_frsize=4096)

        patch.setattr(os, "statvfs", statvfs)
        yield


def free_fraction(folder: Path) -> float:
    """Return the fraction of the disk that is free to an ordinary user."""
    status = os.statvfs(folder)
    return status.f_bavail / status.f_blocks


def fill_disk(folder: Path, leave: float) -> Path:
    """Fill the disk from another process until a fraction *leave* is free; return the file.

    If taskfs writes meanwhile, the disk may be full earlier.
    """
    status = os.statvfs(folder)
    size = (status.f_bavail - int(status.f_blocks * leave)) * status.f_frsize
    path = folder / f"filler {len(os.listdir(folder))}, leaving {leave}"
    command = ["dd", "if=/dev/zero", f"of={path}", "bs=4096", f"count={max(0, size) // 4096}"]
    subprocess.run(command, check=False, capture_output=True)
    return path


def write_index(cache: DiskCache, key: str, content: bytes) -> None:
    """Write *content* as the index *key* of the disk cache."""
    writer = cache.create_sealed(INDEXES, key, len(content), 0)
    writer.write(content)
    writer.seal(_KIND)
    cache.publish_sealed(writer, cache.last_drop_ns())


def read_index(cache: DiskCache, key: str) -> bytes | None:
    """Return the content of an index, None for a miss: at once, or when it is read."""
    try:
        found = cache.read_sealed(INDEXES, key, _KIND)
        return None if found is None else found[: len(found)]
    except CacheChanged:
        return None


def damage_pages(index: Path, pages: slice) -> None:
    """Flip a bit in each of these pages of an archive's index; its seal and its sums stay right."""
    content = read_sealed(index, KIND)
    assert content is not None
    with index.open("r+b") as opened:
        for at in range(0, len(content), SUM_PAGE)[pages]:
            byte = content[at : at + 1][0]
            opened.seek(at)
            opened.write(bytes([byte ^ 1]))

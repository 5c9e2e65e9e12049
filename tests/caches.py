"""What tests of the cache on disk share: tasks, what they hold, and what is kept of them."""

import contextlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest

from tests.fake_api import FakeCloud
from tests.mounts import Mount
from tests.odd_zips import Odd, odd_zip
from tests.surfaces import InProcess, Surface, assert_same, walk

LONG_AGO: Final = "2025-06-11T08:00:00+00:00"
QUICK: Final = {"attr_timeout": "100ms", "status_cache_time": "200ms", "dir_cache_time": "300ms"}
SEGMENT: Final = 4 << 20
Files = dict[str, bytes]
Mounting = Callable[..., contextlib.AbstractContextManager[Mount]]
Opening = Callable[..., contextlib.AbstractContextManager[InProcess]]


def noise(seed: object, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def some_files(seed: int) -> Files:
    return {
        "small": b"a few bytes of %d\n" % seed,
        "text": b"".join(b"%d line of %d\n" % (number, seed) for number in range(60_000)),
        "deep/noise": noise(seed, 700_000),
    }


def put(cloud: FakeCloud, task: str, files: Files, method: int = 8) -> None:
    members = [Odd(f"artifacts/{name}".encode(), body, method) for name, body in files.items()]
    cloud.put_object(f"{task}/output.zip", odd_zip(members))


def finished(cloud: FakeCloud, files: Files, method: int = 8) -> str:
    task = cloud.add_task(end_time=LONG_AGO)
    put(cloud, task, files, method)
    return task


def check(fs: Surface, task: str, files: Files) -> None:
    """Fail unless the tree lists and gives exactly these files."""
    assert sorted(walk(fs, f"{task}/outputs")) == sorted(files)
    for name, body in files.items():
        assert fs.stat(f"{task}/outputs/{name}").st_size == len(body)
        assert_same(fs.read(f"{task}/outputs/{name}"), body)


def outside(cloud: FakeCloud) -> list[str]:
    """Return what went out for archives: requests to the store, and for signed URLs."""
    return [
        f"{record.side} {record.path}"
        for record in cloud.requests
        if record.side == "store" or "url" in record.path or "output" in record.path
    ]


def kept_files(cache: Path, kind: str) -> list[Path]:
    return sorted(path for path in (cache / "v1" / kind).rglob("*") if path.is_file())


def disk_use(cache: Path) -> int:
    total = 0
    for top, _, names in os.walk(cache):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(top, name).lstat().st_blocks * 512
    return total


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    """Have *place* on a disk of *size* bytes: a file system of its own as root, else one that
    statvfs(2) describes so to this process."""
    place.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", place], check=True)
        return
    with pytest.MonkeyPatch.context() as patch:

        def statvfs(path: object) -> SimpleNamespace:
            free = max(0, size - disk_use(place)) // 4096
            return SimpleNamespace(f_blocks=size // 4096, f_bavail=free, f_frsize=4096)

        patch.setattr(os, "statvfs", statvfs)
        yield


def free_part(place: Path) -> float:
    """Return which part of the disk is free to an ordinary user."""
    status = os.statvfs(place)
    return status.f_bavail / status.f_blocks


def fill_from_outside(place: Path, leave: float) -> Path:
    """Have another process write a file until *leave* of the disk is free; return its path.

    The disk may be full before, where taskfs still writes.
    """
    status = os.statvfs(place)
    size = (status.f_bavail - int(status.f_blocks * leave)) * status.f_frsize
    path = place / f"of another program, at {leave}, beside {len(os.listdir(place))}"
    command = ["dd", "if=/dev/zero", f"of={path}", "bs=4096", f"count={max(0, size) // 4096}"]
    subprocess.run(command, check=False, capture_output=True)
    return path

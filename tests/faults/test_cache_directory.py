"""The cache directory in bad shape: always a miss, never wrong data."""

import contextlib
import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from taskfs.archive.index_layout import KIND
from taskfs.cache.sealed_file import SealedWriter, read_sealed
from tests.caches import (
    SEGMENT,
    MountFactory,
    TreeFactory,
    archive_requests,
    cached_files,
    check_outputs,
    disk_use,
    fill_disk,
    free_fraction,
    make_files,
    small_disk,
)
from tests.conftest import in_process
from tests.fake_api import FakeCloud
from tests.file_systems import Mounted, assert_same
from tests.mounts import Mount, eventually
from tests.outputs import add_finished_task, noise


@pytest.mark.mount
def test_two_mounts_on_one_cache(mounted: MountFactory, cloud: FakeCloud, cache: Path) -> None:
    """R-14, R-15: Two mounts on one cache read, write and evict: all bytes are right, and the disk
    stays within `--cache-size`, up to a segment per writer."""
    size = 12 << 20
    tasks = {}
    for number in range(4):
        files = {"stored": noise(number, 5_000_000)}
        tasks[add_finished_task(cloud, files, 0)] = files
    failures: list[BaseException] = []
    most = 0

    def read(mount: Mount, seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(3):
                task = rng.choice(list(tasks))
                check_outputs(Mounted(cloud, mount.path), task, tasks[task])
                body = tasks[task]["stored"]
                with open(mount.path / task / "outputs/stored", "rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    for _ in range(10):
                        at = rng.randrange(len(body))
                        assert_same(os.pread(file.fileno(), 9000, at), body[at : at + 9000])
        except BaseException as exc:
            failures.append(exc)

    with contextlib.ExitStack() as stack:
        mounts = [stack.enter_context(mounted(cache_size=str(size))) for _ in range(2)]
        readers = [
            threading.Thread(target=read, args=(mount, number), daemon=True)
            for number, mount in enumerate(mounts * 2)
        ]
        for reader in readers:
            reader.start()
        deadline = time.monotonic() + 150
        while any(reader.is_alive() for reader in readers):
            assert time.monotonic() < deadline
            most = max(most, disk_use(cache))
            time.sleep(0.01)
        if failures:
            raise failures[0]
    assert size // 3 < most <= size + 2 * SEGMENT


@pytest.mark.mount
def test_a_disk_that_takes_no_more(cloud: FakeCloud, tmp_path: Path, cache: Path) -> None:
    """R-16: Under a limit on file sizes reads go on, no partial file stays, and the log says it
    once."""
    files = make_files(7) | {f"{number:0100}": b"x" for number in range(1000)}
    task = add_finished_task(cloud, files)
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    mount = Mount(cloud, mountpoint, tmp_path, {"cache_dir": str(cache)})
    limit = ("prlimit", "--fsize=20000")
    done = mount.taskfs("mount", *mount.flags, mountpoint, prefix=limit)
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        for name in ("small", "text", "deep/noise", "text"):
            assert_same((mountpoint / task / "outputs" / name).read_bytes(), files[name])
    finally:
        mount.stop()
    mount.check_log()
    messages = [line for line in mount.log.read_text().splitlines() if "taskfs.cache." in line]
    assert len(messages) == 1, messages
    assert cached_files(cache, "index") == []


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_place_of_the_cache_directory(
    cloud: FakeCloud, cache: Path, below: str, caplog: pytest.LogCaptureFixture
) -> None:
    """R-16: Where no cache directory can be made, reads go on and the log says it once."""
    cache.write_bytes(b"a file")
    task = add_finished_task(cloud, make_files(8))
    with in_process(cloud, cache / below, {}) as fs:
        check_outputs(fs, task, make_files(8))
    names = [record.name for record in caplog.records if "cache" in record.getMessage()]
    # Blocks and tasks are kept apart: each says once that it has no directory.
    assert sorted(names) == ["taskfs.cache.disk_cache", "taskfs.tasks.accounts"]


@pytest.mark.mount
def test_the_cache_deleted_underneath(mounted: MountFactory, cloud: FakeCloud, cache: Path) -> None:
    """R-16: After the cache is deleted under a mount, reads go on and new blocks are kept again."""
    tasks = {
        add_finished_task(cloud, make_files(number)): make_files(number) for number in range(3)
    }
    first, second, third = tasks
    with mounted() as mount:
        fs = Mounted(cloud, mount.path)
        check_outputs(fs, first, tasks[first])
        with open(mount.path / second / "outputs/text", "rb") as file:
            content = file.read(100_000)
            while (cache / "v1" / "blocks").exists():  # the daemon may be writing meanwhile
                shutil.rmtree(cache, ignore_errors=True)
            content += file.read()
        assert_same(content, tasks[second]["text"])
        for task, files in tasks.items():
            check_outputs(fs, task, files)
    cloud.clear_requests()
    with mounted() as mount:
        check_outputs(Mounted(cloud, mount.path), third, tasks[third])
    assert archive_requests(cloud) == []


def _flip(path: Path) -> None:
    rng, content = random.Random(path.name), bytearray(path.read_bytes())
    for at in (*rng.choices(range(len(content)), k=30), *range(0, len(content), 50_000)):
        content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _swap(path: Path) -> None:
    others = [other for other in path.parents[path.parts[-2] != "index"].rglob("*-0")]
    path.replace(random.Random(path.name).choice(others or [path]))


DAMAGES: Final[dict[str, Callable[[Path], None]]] = {
    "flipped": _flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "another's": _swap,
}


@pytest.mark.parametrize("when", ["between", "while open"])
def test_a_damaged_cache_is_a_cache_miss(
    open_tree: TreeFactory, cloud: FakeCloud, cache: Path, when: str
) -> None:
    """I-7: A cache damaged between mounts or under one is a miss, and the bytes are right."""
    tasks = {
        add_finished_task(cloud, make_files(number)): make_files(number) for number in range(2)
    }
    for damage in DAMAGES.values():
        with open_tree() as before:
            for task, files in tasks.items():
                check_outputs(before, task, files)
            for path in cached_files(cache, "blocks") + cached_files(cache, "index"):
                with contextlib.suppress(FileNotFoundError):  # swapped away
                    damage(path)
            with contextlib.ExitStack() as stack:
                fs = before if when == "while open" else stack.enter_context(open_tree())
                if when == "while open":
                    fs.core.tree.context.archives.forget()
                for task, files in tasks.items():
                    check_outputs(fs, task, files)


@pytest.mark.parametrize("kind", ["index", "blocks"])
def test_damaged_byte_by_byte(
    open_tree: TreeFactory, cloud: FakeCloud, cache: Path, kind: str
) -> None:
    """I-7: Every fourth damaged byte of an index, and of a block with its table entry, is a miss
    (all of them: tests/unit/test_disk_cache.py)."""
    files = {"a": b"some text\n" * 5, "b": noise(12, 90)}
    task = add_finished_task(cloud, files)
    with open_tree() as fs:
        check_outputs(fs, task, files)
    (path,) = cached_files(cache, kind)
    sound = path.read_bytes()
    places = [at for at, byte in enumerate(sound) if byte]  # a hole has nothing to damage
    assert len(places) > 100
    for at in places[::4]:
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
        with open_tree() as fs:
            check_outputs(fs, task, files)


@pytest.mark.mount
@pytest.mark.parametrize("what", ["full", "read-only"])
def test_a_disk_that_is_full_or_read_only(
    mounted: MountFactory, cloud: FakeCloud, cache: Path, what: str
) -> None:
    """R-16: With a full or read-only cache directory reads go on, on this mount and the next, and
    the log says it once."""
    if os.getuid() != 0:
        pytest.fail("only root can make a file system of its own: run these tests as root")
    tasks = {
        add_finished_task(cloud, make_files(number)): make_files(number) for number in range(3)
    }
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", cache], check=True)
    try:
        for run in range(2):
            with mounted() as mount:
                assert bool(mount.warning) == (what == "read-only" and run == 1)
                if what == "read-only":
                    subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
                for task, files in tasks.items():
                    check_outputs(Mounted(cloud, mount.path), task, files)
            lines = mount.log.read_text().splitlines() if mount.log.exists() else []
            messages = [line for line in lines if "taskfs.cache." in line]
            # On a full disk the cache evicts, so it may have nothing to report.
            assert len(messages) == 1 or (what == "full" and not messages), messages
    finally:
        subprocess.run(["umount", "-l", cache], check=True)


def rewrite_as_newer(path: Path) -> None:
    """Replace an index by that of a newer version, which would show other names in this one."""
    content = read_sealed(path, KIND)
    assert content is not None
    other = content[:].replace(b"small", b"other")
    assert other != content[:]
    newer = re.sub(rb"\d+", lambda number: b"%d" % (int(number[0]) + 1), KIND)
    assert newer != KIND
    writer = SealedWriter(path.name, path.parent)
    writer.write(other)
    writer.seal(newer)
    writer.publish()


@pytest.mark.mount
def test_written_by_another_version(mounted: MountFactory, cloud: FakeCloud, cache: Path) -> None:
    """R-16: Files of another format version are neither read, changed nor evicted; look-alikes are
    a miss."""
    files = make_files(13)
    task = add_finished_task(cloud, files)
    with mounted() as mount:
        check_outputs(Mounted(cloud, mount.path), task, files)
    for path in cached_files(cache, "index"):
        rewrite_as_newer(path)
    for path in cached_files(cache, "blocks"):
        path.write_bytes(b"another layout" * 5000)
    shutil.copytree(cache / "v1", cache / "v0")
    shutil.copytree(cache / "v1", cache / "v2")
    (cache / "v2" / "index" / "unknown").write_bytes(noise(14, 3 << 20))

    def others() -> dict[Path, tuple[bytes, int]]:
        kept = [path for top in ("v0", "v2") for path in (cache / top).rglob("*")]
        return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in kept if p.is_file()}

    before = others()
    with mounted(cache_size="2M") as mount:
        for _ in range(2):
            check_outputs(Mounted(cloud, mount.path), task, files)
    assert others() == before


@pytest.mark.mount
def test_a_disk_that_another_program_fills(
    mounted: MountFactory, cloud: FakeCloud, cache: Path, tmp_path: Path
) -> None:
    """R-25: The cache leaves 5 % of its disk free while taskfs fills it, while another program
    does, and where an earlier mount left more; reads go on."""
    if os.getuid() != 0:
        pytest.fail("only root can make a file system of its own: run these tests as root")
    tasks = {}
    for number in range(5):
        files = {"stored": noise(number, 5_000_000), **make_files(number)}
        tasks[add_finished_task(cloud, files, 0)] = files
    disk = tmp_path / "disk"
    with small_disk(disk, 24 << 20):
        with mounted(cache_dir=str(disk / "cache")) as mount:
            fs = Mounted(cloud, mount.path)
            for task, files in tasks.items():
                check_outputs(fs, task, files)
                assert free_fraction(disk) >= 0.05
            fill_disk(disk, leave=0.01)
            fresh = add_finished_task(cloud, make_files(9))
            check_outputs(fs, fresh, make_files(9))
            eventually(lambda: free_fraction(disk) >= 0.05)
            assert disk_use(disk / "cache") > 1 << 20, "more was evicted than needed"
            mount.check_log()
            assert "taskfs.cache." not in (mount.log.read_text() if mount.log.exists() else "")
        kept = disk_use(disk / "cache")
        fill_disk(disk, leave=0.01)  # between two mounts
        assert free_fraction(disk) < 0.05
        with mounted(cache_dir=str(disk / "cache")) as mount:
            eventually(lambda: free_fraction(disk) >= 0.05)
            assert 0 < disk_use(disk / "cache") < kept
            for task, files in tasks.items():
                check_outputs(Mounted(cloud, mount.path), task, files)
            assert free_fraction(disk) >= 0.05


def test_a_small_disk_in_process(open_tree: TreeFactory, cloud: FakeCloud, cache: Path) -> None:
    """R-25: On a small disk the cache leaves 5 % free, without a mount or a real disk."""
    tasks = {}
    for number in range(4):
        files = {"stored": noise(number, 5_000_000)}
        tasks[add_finished_task(cloud, files, 0)] = files
    with small_disk(cache, 12 << 20):
        for leave in (0.5, 0.02):
            with open_tree() as fs:
                for task, files in tasks.items():
                    check_outputs(fs, task, files)
                    assert free_fraction(cache) >= 0.05
            fill_disk(cache, leave)


@pytest.mark.mount
def test_a_cache_size_of_0_writes_nothing(
    mounted: MountFactory, cloud: FakeCloud, cache: Path
) -> None:
    """C-14: `--cache-size 0` writes nothing, whatever the disk has."""
    files = make_files(3)
    task = add_finished_task(cloud, files)
    with mounted(cache_size="0") as mount:
        check_outputs(Mounted(cloud, mount.path), task, files)
    assert not cache.exists()

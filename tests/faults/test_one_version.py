"""An archive that is replaced while open: ESTALE on the old handle and the new content on a new
one, although the kernel's page cache belongs to the path."""

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fake_api import FakeCloud
from tests.faults.scenarios import add_fault, finished, put, read_whole
from tests.file_systems import FileSystem, OpenFile, assert_same, errno_of, write
from tests.mounts import eventually
from tests.outputs import LONG_AGO, noise
from tests.zips import Entry, build

PIECE = 100_000


def read_everywhere(opened: OpenFile, old: bytes) -> set[int]:
    """Read the whole file in pieces, backwards; fail on any byte that is not *old*'s.

    Returns the errnos of the pieces that could not be read. The kernel may give the part of a piece
    that it has before it fails: never less than all without an error behind it.
    """
    failures: set[int] = set()
    for start in range(len(old) - len(old) % PIECE, -1, -PIECE):
        at, stop = start, min(start + PIECE, len(old))
        try:
            while at < stop:
                piece = opened.read_at(at, stop - at)
                assert piece, f"the file seems to end at {at} of {len(old)}"
                assert_same(piece, old[at : at + len(piece)])
                at += len(piece)
        except OSError as exc:
            failures.add(exc.errno or 0)
    return failures


@pytest.mark.parametrize(
    "sizes", [(1_000_000, 1_000_000), (1_000_000, 400_000), (400_000, 900_000)]
)
def test_old_bytes_and_new_are_never_mixed(fs: FileSystem, sizes: tuple[int, int]) -> None:
    """F-8, F-9: With an old handle open, a new open reads the new version whole and the old handle
    fails with ESTALE everywhere."""
    old, new = noise(1, sizes[0]), noise(2, sizes[1])
    task = fs.cloud.add_task(end_time=LONG_AGO)
    put(fs.cloud, task, x=old, filler=noise(3, 300_000))
    with fs.open(f"{task}/outputs/x") as opened:
        assert_same(opened.read_at(0, 1000), old[:1000])
        put(fs.cloud, task, x=new, filler=noise(4, 300_000))
        write(fs, ".taskfs/refresh")
        with fs.open(f"{task}/outputs/x") as again:
            received = b""
            while piece := again.read_at(len(received), PIECE):
                received += piece
            assert_same(received, new)
            assert fs.stat(f"{task}/outputs/x").st_size >= len(old)
            assert read_everywhere(opened, old) <= {errno.ESTALE}
            received = b"".join(again.read_at(at, PIECE) for at in range(0, len(new), PIECE))
            assert_same(received, new)
        assert_same(fs.read(f"{task}/outputs/x")[: len(new)], new)
        with pytest.raises(OSError) as caught:
            for start in range(0, len(old), 4096):  # at some offset the bytes are not cached
                opened.read_at(start, 4096)
        assert caught.value.errno == errno.ESTALE
    eventually(lambda: fs.stat(f"{task}/outputs/x").st_size == len(new))
    assert_same(fs.read(f"{task}/outputs/x"), new)


def test_a_replacement_is_noticed_by_reading(fs: FileSystem) -> None:
    """X-5, F-8: A read that meets the new object is ESTALE; the next open gets the new version."""
    old, new = noise(1, 900_000), noise(2, 800_000)
    task = fs.cloud.add_task(end_time=LONG_AGO)
    put(fs.cloud, task, x=old, y=old[::-1])
    with fs.open(f"{task}/outputs/x") as opened:
        assert_same(opened.read_at(0, PIECE), old[:PIECE])
        put(fs.cloud, task, x=new)
        assert errno.ESTALE in read_everywhere(opened, old)
    eventually(lambda: fs.names(f"{task}/outputs") == ["x"])
    eventually(lambda: fs.stat(f"{task}/outputs/x").st_size == len(new))
    assert_same(fs.read(f"{task}/outputs/x"), new)
    with pytest.raises(FileNotFoundError):
        fs.read(f"{task}/outputs/y")


def test_a_changed_record_announces_a_new_archive(fs: FileSystem) -> None:
    """F-8, F-11: A record that changed announces a new version, and the next open gets it."""
    task = fs.cloud.add_task(end_time=LONG_AGO)
    put(fs.cloud, task, x=b"first")
    assert fs.read(f"{task}/outputs/x") == b"first"
    put(fs.cloud, task, x=b"second one")
    fs.cloud.update_task(task, end_time="2025-06-12T08:00:00+00:00")

    def is_new() -> bool:
        fs.names()
        return fs.stat(f"{task}/outputs/x").st_size == len(b"second one")

    eventually(is_new)
    assert fs.read(f"{task}/outputs/x") == b"second one"


def test_the_raw_archive_belongs_to_one_version_too(fs: FileSystem) -> None:
    """F-8: Reads of the raw archive through an old handle fail with ESTALE."""
    old, new = noise(1, 900_000), noise(2, 950_000)
    task = fs.cloud.add_task(end_time=LONG_AGO)
    put(fs.cloud, task, x=old)
    before = build([Entry(b"artifacts/x", old, 0)])
    with fs.open(f"{task}/output.zip") as opened:
        assert_same(opened.read_at(0, PIECE), before[:PIECE])
        put(fs.cloud, task, x=new)
        assert errno.ESTALE in read_everywhere(opened, before)
    eventually(lambda: fs.stat(f"{task}/output.zip").st_size > len(before))
    assert_same(fs.read(f"{task}/output.zip"), build([Entry(b"artifacts/x", new, 0)]))


@pytest.mark.mount
def test_readers_beside_a_replacement_get_one_version_or_estale(
    shared_mnt: Path, shared_cloud: FakeCloud
) -> None:
    """F-9: Readers beside a replacement get bytes of one version, or ESTALE."""
    task = shared_cloud.add_task(end_time=LONG_AGO)
    versions = [noise(seed, 600_000 + 150_000 * (seed % 3)) for seed in range(8)]
    put(shared_cloud, task, x=versions[0])
    path = shared_mnt / task / "outputs/x"
    stop = threading.Event()
    seen: set[int] = set()
    problems: list[str] = []

    def read_on(step: int) -> None:
        while not stop.is_set():
            received = b""
            try:
                with open(path, "rb", buffering=0) as file:
                    while piece := file.read(step):
                        received += piece
            except OSError as exc:
                if exc.errno != errno.ESTALE:
                    problems.append(f"errno {exc.errno}")
                continue
            if received in versions:
                seen.add(versions.index(received))
            else:
                whose = [n for n, v in enumerate(versions) if v[:4096] == received[:4096]]
                problems.append(f"{len(received)} bytes that begin as version {whose}")

    threads = [threading.Thread(target=read_on, args=(step,)) for step in (10_000, 65_536, 1 << 20)]
    for thread in threads:
        thread.start()
    try:
        for version in versions[1:]:
            time.sleep(0.3)
            put(shared_cloud, task, x=version)
            if version is not versions[4]:  # one replacement without a refresh
                (shared_mnt / ".taskfs/refresh").write_text("1")
            path.stat()
        eventually(lambda: len(versions) - 1 in seen or bool(problems))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert problems == []


@pytest.mark.mount
def test_an_older_handle_sees_no_zeros_behind_its_end(
    shared_mnt: Path, shared_cloud: FakeCloud
) -> None:
    """F-9: An old, shorter file is not filled up with zeros to the new size."""
    old, new = noise(1, 50_001), noise(2, 400_000)
    task = shared_cloud.add_task(end_time=LONG_AGO)
    put(shared_cloud, task, x=old)
    path = shared_mnt / task / "outputs/x"
    with open(path, "rb", buffering=0) as opened:
        assert opened.read(10) == old[:10]
        put(shared_cloud, task, x=new)
        (shared_mnt / ".taskfs/refresh").write_text("1")
        time.sleep(0.2)
        for _ in range(5):
            assert path.stat().st_size == len(new)
            try:
                opened.seek(0)
                received = opened.read(len(new))
                assert_same(received, old[: len(received)])
                assert os.pread(opened.fileno(), PIECE, len(old)) == b""
            except OSError as exc:
                assert exc.errno == errno.ESTALE
            assert_same(path.read_bytes(), new)


@pytest.mark.mount
@pytest.mark.usefixtures("each_engine")
def test_what_was_read_before_is_read_from_memory(mnt: Path, cloud: FakeCloud) -> None:
    """R-2: A second reader of a member is served by the page cache and costs no request."""
    content = noise(1, 2_000_000)
    task = cloud.add_task(end_time=LONG_AGO)
    put(cloud, task, x=content)
    assert_same((mnt / task / "outputs/x").read_bytes(), content)
    cloud.clear_requests()
    with open(mnt / task / "outputs/x", "rb") as file:
        assert_same(file.read(), content)
    assert [r for r in cloud.requests if r.side == "store"] == []


@pytest.mark.mount
@pytest.mark.usefixtures("each_engine")
def test_pages_of_the_old_version_are_dropped(mnt: Path, cloud: FakeCloud) -> None:
    """F-9, F-11: Pages of the old version are dropped, although size and time are equal."""
    old, new = noise(1, 500_000), noise(2, 500_000)
    task = cloud.add_task(end_time=LONG_AGO)
    put(cloud, task, x=old)
    path = mnt / task / "outputs/x"
    for _ in range(2):
        assert_same(path.read_bytes(), old)
    put(cloud, task, x=new)
    (mnt / ".taskfs/refresh").write_text("1")
    for _ in range(2):
        assert_same(path.read_bytes(), new)
    time.sleep(1.6)  # until the kernel asked for the attributes again
    for _ in range(2):
        assert_same(path.read_bytes(), new)


@pytest.mark.parametrize("etag", ['"another"', 'W/"weak"'])
def test_every_range_is_compared_with_the_version(fs: FileSystem, etag: str) -> None:
    """F-8: Each range is compared with the version (ETag), also one that resumes a cut answer of a
    store without If-Match."""
    old = noise(5, 900_000)
    task = finished(fs.cloud, x=old, filler=noise(3, 300_000))
    with fs.open(f"{task}/outputs/x") as opened:
        add_fault(fs.cloud, "store", task, "short", after_bytes=10_000)
        add_fault(fs.cloud, "store", task, "header", times=None, name="ETag", value=etag)
        assert read_everywhere(opened, old) == {errno.ESTALE}
    fs.cloud.faults.clear()
    read_whole(fs, f"{task}/outputs/x", old)


def test_an_archive_replaced_while_it_is_opened_is_opened_anew(fs: FileSystem) -> None:
    """F-8: An open that met the end of one version and the directory of another begins anew with
    the new one."""
    many = {f"file-{number:04}-{'x' * 60}": b"old" for number in range(900)}
    task = finished(fs.cloud, **many)
    ranges: list[str] = []

    def replaced(record: Any) -> bool:
        if task in record.path and record.side == "store":
            ranges.append(record.range)
            if len(ranges) == 2:
                put(fs.cloud, task, x=b"new")
        return False

    fs.cloud.faults.add("status", status=500, match=replaced, times=None)
    assert fs.names(f"{task}/outputs") == ["x"]
    assert len(ranges) >= 3
    assert fs.read(f"{task}/outputs/x") == b"new"


def test_an_archive_removed_while_open_is_enoent(fs: FileSystem) -> None:
    """X-1, F-8: Reads of an archive that was removed while open are ENOENT."""
    old = noise(6, 900_000)
    task = finished(fs.cloud, x=old, filler=noise(3, 300_000))
    with fs.open(f"{task}/outputs/x") as opened:
        assert_same(opened.read_at(0, 1000), old[:1000])
        fs.cloud.remove_object(f"{task}/output.zip")
        assert errno.ENOENT in read_everywhere(opened, old)
    eventually(lambda: fs.names(f"{task}/outputs") == [])
    assert errno_of(lambda: fs.stat(f"{task}/outputs/x")) == errno.ENOENT

"""Tests that need a kernel: mmap, O_DIRECT, sendfile and the page cache."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.fake_api import FakeCloud
from tests.file_systems import assert_same
from tests.mounts import eventually
from tests.outputs import LONG_AGO
from tests.programs import require_program

pytestmark = pytest.mark.mount

CONTENT: Final = os.urandom(500_000)


@pytest.fixture
def task(shared_mnt: Path, shared_cloud: FakeCloud) -> Path:
    return shared_mnt / shared_cloud.add_task(outputs={"a": CONTENT}, end_time=LONG_AGO)


def test_sendfile_and_copy_file_range(task: Path, tmp_path: Path) -> None:
    """S-7: sendfile and copy_file_range read text files, which use direct I/O."""
    for name, content in (("status", b"success\n"), ("outputs/a", CONTENT)):
        shutil.copyfile(task / name, tmp_path / "copy")
        assert_same((tmp_path / "copy").read_bytes(), content)
        with open(task / name, "rb") as source, open(tmp_path / "ranges", "wb") as target:
            try:
                while os.copy_file_range(source.fileno(), target.fileno(), 1 << 20):
                    pass
            except OSError as exc:
                assert exc.errno in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL)
            else:
                assert_same((tmp_path / "ranges").read_bytes(), content)


def test_mapping(task: Path) -> None:
    """U-5, S-2: Members can be mapped; of text files only a MAP_SHARED mapping fails."""
    # In a process of its own: a page fault holds Python's lock, which the cloud here needs.
    program = """
import hashlib, mmap, sys
with open(sys.argv[1], "rb") as file:
    flags = getattr(mmap, sys.argv[2])
    print(hashlib.sha256(mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)).hexdigest())
"""
    for name, content in (("outputs/a", CONTENT), ("status", b"success\n")):
        for flags in ("MAP_PRIVATE", "MAP_SHARED"):
            done = subprocess.run(
                [sys.executable, "-c", program, task / name, flags],
                capture_output=True,
                text=True,
                timeout=30,
            )
            if (name, flags) == ("status", "MAP_SHARED"):
                assert "No such device" in done.stderr
            else:
                assert done.stdout.strip() == hashlib.sha256(content).hexdigest(), done.stderr


def test_reads_beside_reads(task: Path) -> None:
    """S-7: pread, readv, O_DIRECT and seeks agree at any offset."""
    with open(task / "outputs/a", "rb", buffering=0) as file:
        assert file.seek(-10, os.SEEK_END) == len(CONTENT) - 10
        assert file.read() == CONTENT[-10:]
        buffers = [bytearray(7), bytearray(100_000)]
        assert os.preadv(file.fileno(), buffers, 123) == 100_007
        assert_same(b"".join(buffers), CONTENT[123 : 123 + 100_007])
        assert file.seek(0, os.SEEK_DATA) == 0
    direct = os.open(task / "outputs/a", os.O_RDONLY | os.O_DIRECT)
    try:
        assert_same(os.pread(direct, 65536, 4096), CONTENT[4096 : 4096 + 65536])
    finally:
        os.close(direct)


def test_files_of_gnome(task: Path, tmp_path: Path) -> None:
    """G-2: `gio cat` and `gio copy` give the bytes of members and text files."""
    gio = require_program("gio", "libglib2.0-bin")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    for name in ("status", "kill", "info.json"):
        done = subprocess.run(
            [gio, "cat", task / name], capture_output=True, env=environment, timeout=30
        )
        assert (done.returncode, done.stdout) == (0, (task / name).read_bytes())
        subprocess.run(
            [gio, "copy", task / name, tmp_path / "x"], env=environment, timeout=30, check=True
        )
        assert (tmp_path / "x").read_bytes() == (task / name).read_bytes()


def test_access_is_answered_by_the_mode_bits(task: Path) -> None:
    """A-3: The kernel answers access(2) from the mode bits and never asks."""
    for name in ("kill", "status", "outputs/a", "."):
        assert os.access(task / name, os.R_OK | os.W_OK)
    assert os.access(task, os.X_OK)
    assert not os.access(task / "status", os.X_OK)


def test_sync_and_locks_do_no_harm(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """K-1: fsync, flush and locks on `kill` succeed and send nothing."""
    victim = shared_mnt / shared_cloud.add_task(status="started")
    descriptor = os.open(victim / "kill", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.fsync(descriptor)
        os.fdatasync(descriptor)
        os.ftruncate(descriptor, 0)
        os.utime(descriptor)
        assert os.isatty(descriptor) is False
        assert os.read(descriptor, 10) == b""
        assert os.write(descriptor, b"") == 0
    finally:
        os.close(descriptor)
    assert victim.name not in shared_cloud.killed
    with pytest.raises(FileExistsError):
        os.open(victim / "kill", os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def test_preallocating_kills_nothing(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """K-14: posix_fallocate(3) on `kill` is EROFS and kills nothing."""
    victim = shared_cloud.add_task(status="started")
    shared_cloud.clear_requests()
    for path in (shared_mnt / victim / "kill", shared_mnt / ".taskfs/refresh"):
        descriptor = os.open(path, os.O_RDWR)
        try:
            for _ in range(2):
                with pytest.raises(OSError) as caught:
                    os.posix_fallocate(descriptor, 0, 4096)
                assert caught.value.errno == errno.EROFS
        finally:
            os.close(descriptor)
    assert victim not in shared_cloud.killed
    assert not [request for request in shared_cloud.requests if request.method != "GET"]


def test_names_longer_than_a_name_may_be(task: Path, shared_cloud: FakeCloud) -> None:
    """N-27: A name of more than 255 bytes is ENAMETOOLONG, without a request."""
    for folder in (task.parent, task, task / "outputs", task.parent / ".by-status"):
        assert not (folder / ("n" * 255)).exists()
        shared_cloud.clear_requests()
        for name in ("n" * 256, "é" * 128, "n" * 1024):
            for ask in (os.stat, os.mkdir, os.listdir):
                with pytest.raises(OSError) as caught:
                    ask(folder / name)
                assert caught.value.errno == errno.ENAMETOOLONG
        # The listing may be updated meanwhile.
        assert [each for each in shared_cloud.requests if each.path != "/tasks"] == []


def test_closed_files_are_released(shared_mnt: Path, task: Path) -> None:
    """R-20: No open file is kept after its close."""

    def open_handles() -> int:
        return int(json.loads((shared_mnt / ".taskfs/stats.json").read_text())["open_handles"])

    for _ in range(50):
        (task / "status").read_text()
        with open(task / "outputs/a", "rb") as file:
            file.read(100)
    eventually(lambda: open_handles() <= 2)


def test_a_name_that_was_not_there_is_asked_for_again(
    shared_mnt: Path, shared_cloud: FakeCloud
) -> None:
    """F-6: A task is found by its name also after that name was asked for in vain."""
    name = f"young{time.time_ns():020}"
    assert not (shared_mnt / name).exists()
    shared_cloud.add_task(name, status="submitted")
    eventually(lambda: (shared_mnt / name / "status").exists())
    assert (shared_mnt / ".latest" / "status").exists()


def test_many_threads_on_everything(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """R-19: Listings, reads, attributes and kills of many threads at once are right."""
    tasks = [
        shared_cloud.add_task(outputs={"a": CONTENT[:1000], "b/c": b"x"}, end_time=LONG_AGO)
        for _ in range(6)
    ]
    victims = [shared_cloud.add_task(status="started") for _ in range(8)]

    def look(number: int) -> None:
        for step in range(15):
            task = shared_mnt / tasks[(number + step) % len(tasks)]
            assert (task / "status").read_text() == "success\n"
            assert sorted(os.listdir(task / "outputs")) == ["a", "b"]
            assert (task / "outputs/a").read_bytes() == CONTENT[:1000]
            assert len(os.listxattr(task / "outputs/b/c")) == 3
            (task / "info.json").read_text()
            os.listdir(shared_mnt / ".by-status/success")
            os.stat(shared_mnt / ".latest")
        (shared_mnt / victims[number] / "kill").write_text("1")

    with ThreadPoolExecutor(8) as pool:
        for outcome in pool.map(look, range(8)):
            assert outcome is None
    assert sorted(task for task in shared_cloud.killed if task in victims) == sorted(victims)


def test_one_kill_for_two_writers_of_one_handle(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """K-2, K-3: Two writers of one handle send one request."""
    victim = shared_cloud.add_task(status="started")
    shared_cloud.clear_requests()
    descriptor = os.open(shared_mnt / victim / "kill", os.O_WRONLY)
    try:
        writers = [threading.Thread(target=os.write, args=(descriptor, b"1")) for _ in range(5)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    finally:
        os.close(descriptor)
    assert sum(r.path == f"/tasks/{victim}/kill" for r in shared_cloud.requests) == 1

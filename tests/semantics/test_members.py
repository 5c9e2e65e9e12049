"""The files beneath `outputs/` and `inputs/`."""

import errno
import io
import os
import random
import stat
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from taskfs.demo.archives import LAYOUTS, STORED, MemberSpec, extended_stamp
from tests.file_systems import FileSystem, assert_same, walk
from tests.zips import ENCRYPTED, Entry, build

NOISE: Final = random.Random(20_250_611).randbytes(700_000)
TEXT: Final = b"".join(b"step %d residual 1.%de-%d\n" % (n, n * 7919, n % 9) for n in range(60_000))
CONTENTS: Final = {
    "stdout.txt": TEXT[:5000],
    "stderr.txt": b"",
    "log/run.log": TEXT,
    "vtk/noise_0.vtk": NOISE,
    "vtk/deep/er/one_byte": b"x",
    "stored.bin": NOISE[::-1],
    "last.dat": TEXT[::-3] + NOISE[:70_000],
}


def archive(layout: str, root: str, beside: str) -> bytes:
    now = time.time()
    folders = [MemberSpec(f"{root}{name}", b"", now) for name in ("", "log/", "vtk/")]
    files = [
        MemberSpec(root + name, content, now, *([STORED] if name == "stored.bin" else []))
        for name, content in CONTENTS.items()
    ]
    source = LAYOUTS[layout]([*folders, *files, MemberSpec(beside, b"{}", now)], extended_stamp)
    return bytes(source.read(0, source.size))


def task_with_archives(fs: FileSystem, layout: str) -> str:
    task = fs.cloud.add_task()
    fs.cloud.put_object(f"{task}/output.zip", archive(layout, "artifacts/", "meta.json"))
    fs.cloud.put_object(f"{task}/input.zip", archive(layout, "sim_dir/", "input.json"))
    return task


def task_with(fs: FileSystem, *members: Entry) -> str:
    task = fs.cloud.add_task()
    fs.cloud.put_object(f"{task}/output.zip", build(members))
    return task


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_file_equals_the_member(fs: FileSystem, layout: str) -> None:
    """N-4: Each file below `outputs/` and `inputs/` equals its member."""
    task = task_with_archives(fs, layout)
    for top, root in (("outputs", "artifacts/"), ("inputs", "sim_dir/")):
        stored = fs.cloud.get_object(f"{task}/{top[:-1]}.zip")
        assert stored is not None
        truth = zipfile.ZipFile(io.BytesIO(stored.source.read(0, stored.source.size)))
        names = [name for name in truth.namelist() if name.startswith(root) and name[-1] != "/"]
        assert sorted(walk(fs, f"{task}/{top}")) == sorted(n.removeprefix(root) for n in names)
        for name in names:
            assert_same(fs.read(f"{task}/{top}/{name.removeprefix(root)}"), truth.read(name))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_backwards_and_at_random_the_bytes_are_the_same(fs: FileSystem, layout: str) -> None:
    """N-4, R-8: Backward and random reads give the same bytes."""
    task = task_with_archives(fs, layout)
    dice = random.Random(layout)
    for name, content in CONTENTS.items():
        with fs.open(f"{task}/outputs/{name}") as opened:
            for start in range(len(content) - len(content) % 65_521, -1, -65_521):
                assert_same(opened.read_at(start, 65_521), content[start : start + 65_521])
            for _ in range(20):
                start, size = dice.randrange(len(content) + 1), dice.randrange(1, 40_000)
                assert_same(opened.read_at(start, size), content[start : start + size])
            assert opened.read_at(len(content), 10) == b""
            assert opened.read_at(len(content) + 10**6, 10) == b""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_eight_threads_at_once_get_the_same_bytes(fs: FileSystem, layout: str) -> None:
    """N-4, R-19: Eight threads at once get the same bytes."""
    task = task_with_archives(fs, layout)
    paths = [f"{task}/outputs/{name}" for name in CONTENTS]

    def read_in_pieces(seed: int) -> None:
        dice = random.Random(seed)
        for path in dice.sample(paths, len(paths)):
            content = CONTENTS[path.removeprefix(f"{task}/outputs/")]
            assert_same(fs.read(path), content)
            with fs.open(path) as opened:
                for _ in range(5):
                    start, size = dice.randrange(len(content) + 1), dice.randrange(1, 200_000)
                    assert_same(opened.read_at(start, size), content[start : start + size])

    with ThreadPoolExecutor(8) as pool:
        for outcome in pool.map(read_in_pieces, range(8)):
            assert outcome is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_raw_archives_are_there_by_name(fs: FileSystem, layout: str) -> None:
    """N-3, A-12: The raw archives exist by name, with the size of the store's Content-Range, and
    are not listed."""
    task = task_with_archives(fs, layout)
    fs.cloud.update_task(task, metrics={"output_zipped_size_bytes": 12})
    for name in ("output.zip", "input.zip"):
        stored = fs.cloud.get_object(f"{task}/{name}")
        assert stored is not None
        assert name not in fs.names(task)
        assert fs.stat(f"{task}/{name}").st_size == stored.source.size
        assert stat.S_ISREG(fs.stat(f"{task}/{name}").st_mode)
        assert_same(fs.read(f"{task}/{name}"), bytes(stored.source.read(0, stored.source.size)))


def test_without_an_archive_there_is_no_raw_one(fs: FileSystem) -> None:
    """X-1: Without an archive the raw one is ENOENT."""
    task = fs.cloud.add_task(status="started")
    for name in ("output.zip", "input.zip", "outputs/stdout.txt"):
        with pytest.raises(FileNotFoundError):
            fs.stat(f"{task}/{name}")
    assert fs.names(f"{task}/outputs") == []


def errno_of_read(fs: FileSystem, path: str) -> int | None:
    with pytest.raises(OSError) as caught:
        fs.read(path)
    return caught.value.errno


@pytest.mark.parametrize("size", [40, 30_000, 1_500_000])
@pytest.mark.parametrize("method", [0, 8])
def test_a_wrong_checksum_is_eio_before_the_last_byte(
    fs: FileSystem, method: int, size: int
) -> None:
    """I-1, I-3: A wrong CRC-32 is EIO before the last byte."""
    task = task_with(fs, Entry(b"artifacts/bad", TEXT[:size], method, crc=0x12345678))
    assert errno_of_read(fs, f"{task}/outputs/bad") == errno.EIO
    received = 0
    with fs.open(f"{task}/outputs/bad") as opened, pytest.raises(OSError):
        while piece := opened.read_at(received, 50_000):
            received += len(piece)
    assert received < size


@pytest.mark.parametrize("size", [29_990, 30_010])
@pytest.mark.parametrize("method", [0, 8])
def test_a_wrong_size_is_eio(fs: FileSystem, method: int, size: int) -> None:
    """X-4, I-1: A size that does not match is EIO."""
    bad = Entry(b"artifacts/bad", TEXT[:30_000], method, size=size)
    task = task_with(fs, bad, Entry(b"artifacts/ok", TEXT[:30_000], method))
    assert fs.stat(f"{task}/outputs/bad").st_size == size
    assert errno_of_read(fs, f"{task}/outputs/bad") == errno.EIO
    assert_same(fs.read(f"{task}/outputs/ok"), TEXT[:30_000])


def test_a_small_member_is_checked_before_its_first_byte(fs: FileSystem) -> None:
    """I-2: A member that fits one block is checked before its first byte."""
    task = task_with(
        fs, Entry(b"artifacts/bad", TEXT[:200_000], crc=1), Entry(b"artifacts/ok", TEXT)
    )
    with fs.open(f"{task}/outputs/bad") as opened, pytest.raises(OSError) as caught:
        opened.read_at(0, 10)
    assert caught.value.errno == errno.EIO
    assert_same(fs.read(f"{task}/outputs/ok"), TEXT)


def test_the_local_header_must_name_the_member(fs: FileSystem) -> None:
    """I-6: The local header must have the member's name."""
    task = task_with(fs, Entry(b"artifacts/a.txt", TEXT, local_name=b"artifacts/b.txt"))
    assert fs.stat(f"{task}/outputs/a.txt").st_size == len(TEXT)
    assert errno_of_read(fs, f"{task}/outputs/a.txt") == errno.EIO


@pytest.mark.parametrize(
    "member", [Entry(b"artifacts/x", b"?", flags=ENCRYPTED), Entry(b"artifacts/x", b"?", 98)]
)
def test_what_cannot_be_read_is_eopnotsupp(fs: FileSystem, member: Entry) -> None:
    """X-6, R-22: Encryption and unknown compression are EOPNOTSUPP."""
    task = task_with(fs, member, Entry(b"artifacts/y", b"fine"))
    assert fs.stat(f"{task}/outputs/x").st_size == 1
    assert errno_of_read(fs, f"{task}/outputs/x") == errno.EOPNOTSUPP
    assert fs.read(f"{task}/outputs/y") == b"fine"


def test_a_store_that_ignores_ranges_is_eopnotsupp(fs: FileSystem) -> None:
    """X-6: A store that ignores ranges on a large object is EOPNOTSUPP."""
    task = task_with(fs, Entry(b"artifacts/x", NOISE * 2, STORED))
    fs.cloud.faults.add("whole", side="store", path=task, times=None)
    with pytest.raises(OSError) as caught:
        fs.names(f"{task}/outputs")
    assert caught.value.errno == errno.EOPNOTSUPP
    fs.cloud.faults.clear()
    assert fs.names(f"{task}/outputs") == ["x"]
    small = task_with(fs, Entry(b"artifacts/x", b"small"))
    fs.cloud.faults.add("whole", side="store", path=small, times=None)
    assert fs.read(f"{small}/outputs/x") == b"small"


@pytest.mark.parametrize("content", [b"no archive at all" * 100, b"", build([Entry(b"a")])[:-30]])
def test_a_damaged_archive_is_eio(fs: FileSystem, content: bytes) -> None:
    """X-4: A damaged archive is EIO."""
    task = fs.cloud.add_task()
    fs.cloud.put_object(f"{task}/output.zip", content)
    with pytest.raises(OSError) as caught:
        fs.names(f"{task}/outputs")
    assert caught.value.errno == errno.EIO
    assert fs.read(f"{task}/status") == b"success\n"


def test_links_and_set_uid_bits_are_shown_as_plain_files(fs: FileSystem) -> None:
    """N-18: Links show as files with their target, and set-uid bits are not shown."""
    task = task_with(
        fs,
        Entry(b"artifacts/link", b"../../etc/passwd", STORED, mode=stat.S_IFLNK | 0o777),
        Entry(b"artifacts/tool", b"#!/bin/sh\n", mode=stat.S_IFREG | 0o6755),
    )
    for name, content in (("link", b"../../etc/passwd"), ("tool", b"#!/bin/sh\n")):
        assert stat.S_IFMT(fs.stat(f"{task}/outputs/{name}").st_mode) == stat.S_IFREG
        assert not fs.stat(f"{task}/outputs/{name}").st_mode & (stat.S_ISUID | stat.S_ISGID)
        assert fs.read(f"{task}/outputs/{name}") == content


def test_members_cannot_be_opened_for_writing(fs: FileSystem) -> None:
    """X-7: Opening a member for writing is EROFS."""
    task = task_with(fs, Entry(b"artifacts/x", b"fine"))
    for path in (f"{task}/outputs/x", f"{task}/output.zip", f"{task}/status"):
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(OSError) as caught, fs.open(path, flags):
                pass
            assert caught.value.errno == errno.EROFS

"""Archives whose files cannot be shown: their own bytes can be read, and failures say why."""

import contextlib
import errno
import functools
import itertools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from taskfs.demo.sources import ByteSource
from taskfs.support.formatting import format_size
from tests.conftest import in_process
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, assert_same, errno_of, text
from tests.large_archives import OversizedArchive
from tests.mounts import Taskfs
from tests.outputs import LONG_AGO
from tests.zips import STORED, build, cheap_bytes, file

BODY: Final = cheap_bytes(300_000)
GOOD: Final = build([file("good", b"as it should be\n"), file("more", BODY, method=STORED)])


def _encrypted() -> bytes:
    archive = bytearray(build([file("x", BODY)], zip64=True, end64={"needed": 62}))
    at = archive.index(b"PK\x01\x02")
    archive[at : at + 46] = bytes(46)
    return bytes(archive)


# Archives that cannot be shown: their bytes, the errno of a listing, a part of the message.
REFUSED: Final[dict[str, tuple[Callable[[], bytes], int, str]]] = {
    "cut in the middle": (lambda: GOOD[:200_000], errno.EIO, "no end record"),
    "cut at its end": (lambda: GOOD[:-10], errno.EIO, "no end record"),
    "its directory is damaged": (
        lambda: GOOD.replace(b"PK\x01\x02", b"KP\x01\x02", 1),
        errno.EIO,
        "directory",
    ),
    "no ZIP archive": (lambda: b"hello\n" * 999, errno.EIO, "not a ZIP archive"),
    "empty": (lambda: b"", errno.EIO, "not a ZIP archive"),
    "one byte": (lambda: b"x", errno.EIO, "not a ZIP archive"),
    "encrypted": (_encrypted, errno.EOPNOTSUPP, "encrypted"),
    "split": (lambda: build([file("x")], end={"disk": 3}), errno.EOPNOTSUPP, "split"),
}


def put(fs: FileSystem, body: bytes | ByteSource, **fields: Any) -> str:
    task = fs.cloud.add_task(end_time=LONG_AGO, **fields)
    fs.cloud.put_object(f"{task}/output.zip", body)
    return task


@pytest.mark.parametrize("kind", REFUSED)
def test_the_raw_archive_does_not_need_its_directory(fs: FileSystem, kind: str) -> None:
    """N-24, T-12, X-18: `output.zip` can be read whatever the archive holds; where its files cannot
    be shown, `outputs/` fails and the rest of the task works."""
    make, code, why = REFUSED[kind]
    body = make()
    task = put(fs, body, error_detail="the disk was full")
    for _ in range(2):
        assert fs.stat(f"{task}/output.zip").st_size == len(body)
        assert_same(fs.read(f"{task}/output.zip"), body)
        assert errno_of(lambda: fs.names(f"{task}/outputs")) == code
        assert errno_of(lambda: fs.read(f"{task}/outputs/good")) == code
    check_the_rest(fs, task, len(body), why)


def test_the_raw_archive_of_too_large_a_directory(fs: FileSystem) -> None:
    """N-24, T-12, X-18: An archive with a directory of more than 1 GiB can be read as well."""
    body = OversizedArchive()
    task = put(fs, body, error_detail="the disk was full")
    for _ in range(2):
        assert fs.stat(f"{task}/output.zip").st_size == body.size
        with fs.open(f"{task}/output.zip") as raw:
            for start in (0, 600_000_000, body.size - 1000):
                assert_same(raw.read_at(start, 1000), body.read(start, start + 1000))
        assert errno_of(lambda: fs.names(f"{task}/outputs")) == errno.EOPNOTSUPP
        assert errno_of(lambda: fs.read(f"{task}/outputs/good")) == errno.EOPNOTSUPP
    check_the_rest(fs, task, body.size, "MiB")


def check_the_rest(fs: FileSystem, task: str, size: int, why: str) -> None:
    """Check what is shown of a task whose archive cannot be shown."""
    assert fs.stat(f"{task}/outputs").st_mode & 0o170000 == 0o040000
    assert "outputs" in fs.names(task)
    table = text(fs, f"{task}/output_files_info")
    assert fs.stat(f"{task}/output_files_info").st_size == len(table)
    first, second = table.splitlines()
    assert first == f"Archive size: {format_size(size)}"
    assert second.startswith("The files of the archive cannot be listed: ") and why in second
    assert text(fs, f"{task}/error") == "the disk was full\n"
    assert text(fs, f"{task}/status") == "success\n"


def test_the_raw_input_archive(fs: FileSystem) -> None:
    """N-24: `input.zip` can be read as well."""
    task = fs.cloud.add_task(end_time=LONG_AGO)
    fs.cloud.put_object(f"{task}/input.zip", GOOD[:-9])
    assert_same(fs.read(f"{task}/input.zip"), GOOD[:-9])
    assert errno_of(lambda: fs.names(f"{task}/inputs")) == errno.EIO


def test_the_log_says_once_why(
    cloud: FakeCloud, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """X-10, X-18: Where an archive cannot be shown, the log says why once for each version."""
    for body, why in ((GOOD[:-9], "no end record"), (b"PK", "no end record")):
        with in_process(cloud, tmp_path / "cache", {"attr_timeout": "0s"}) as fs:
            task = put(fs, body)
            with caplog.at_level(logging.INFO):
                for _ in range(3):
                    text(fs, f"{task}/output_files_info")
                    errno_of(lambda: fs.names(f"{task}/outputs"))  # noqa: B023
                    errno_of(lambda: fs.read(f"{task}/outputs/x"))  # noqa: B023
            messages = [r.getMessage() for r in caplog.records if why in r.getMessage()]
            assert len(messages) == 1, messages
            assert f"{task}/output.zip" in messages[0]
            caplog.clear()


def test_a_directory_that_cannot_be_fetched_is_no_table(fs: FileSystem) -> None:
    """X-9, X-18: Where the store ignores the range of an archive's directory, `output_files_info`
    fails as `outputs/` does, and no text says that the archive cannot be shown."""
    members = [file(f"{number:0100}", b"x") for number in range(1000)]
    archive = build([file("more", cheap_bytes(1_100_000), method=STORED), *members])
    for name in ("output_files_info", "outputs"):
        task = put(fs, archive)
        fault = fs.cloud.faults.add("whole", side="store", skip=1)
        look = fs.names if name == "outputs" else fs.stat
        assert errno_of(functools.partial(look, f"{task}/{name}")) == errno.EOPNOTSUPP
        assert fault.hits == 1
        table = text(fs, f"{task}/output_files_info")
        assert table.splitlines()[-1].endswith(f" {999:0100}")
        assert len(fs.names(f"{task}/outputs")) == 1001


def test_damage_on_the_way_is_not_kept(new_fs: Callable[..., FileSystem], cloud: FakeCloud) -> None:
    """X-18, F-15: Where the archive's end came damaged, the next listing is right, whether or not
    the raw archive was opened before."""
    fs = new_fs(attr_timeout="0s")
    # The end record's magic, which looks like damage, and its disk number, like a split archive.
    for is_read_first, at in itertools.product((False, True), (21, 18)):
        task = put(fs, GOOD)
        cloud.faults.add("flip", side="store", times=1, at=len(GOOD) - at)
        if is_read_first:
            assert fs.stat(f"{task}/output.zip").st_size == len(GOOD)
        else:
            with contextlib.suppress(OSError):  # a mount looks it up first: the listing is right
                assert sorted(fs.names(f"{task}/outputs")) == ["good", "more"]
        assert sorted(fs.names(f"{task}/outputs")) == ["good", "more"]
        assert_same(fs.read(f"{task}/outputs/more"), BODY)
        assert_same(fs.read(f"{task}/output.zip"), GOOD)


@pytest.mark.parametrize("after", ["good", "refused"])
def test_raw_reads_are_of_one_version(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud, after: str
) -> None:
    """F-8, N-24: Reads of a raw archive through an old handle are ESTALE, also where its files
    cannot be shown."""
    fs = new_fs(attr_timeout="0s")
    old = cheap_bytes(9_000_000, seed=1)
    new = GOOD if after == "good" else cheap_bytes(9_000_000, seed=2)
    task = put(fs, old)
    with fs.open(f"{task}/output.zip") as file_:
        assert_same(file_.read_at(0, 1000), old[:1000])
        cloud.put_object(f"{task}/output.zip", new)
        assert errno_of(lambda: file_.read_at(4_000_000, 1000)) == errno.ESTALE
        assert errno_of(lambda: file_.read_at(5_000_000, 1000)) == errno.ESTALE
    assert_same(fs.read(f"{task}/output.zip"), new)
    if after == "good":
        assert sorted(fs.names(f"{task}/outputs")) == ["good", "more"]
    else:
        assert errno_of(lambda: fs.names(f"{task}/outputs")) == errno.EIO


def test_a_refused_archive_that_is_removed_is_gone(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """F-12, X-18: A refused archive that its owner removed shows as an empty `outputs/`."""
    fs = new_fs(attr_timeout="0s")
    task = put(fs, GOOD[:-9])
    assert errno_of(lambda: fs.names(f"{task}/outputs")) == errno.EIO
    cloud.remove_object(f"{task}/output.zip")
    assert fs.names(f"{task}/outputs") == []
    assert errno_of(lambda: fs.read(f"{task}/output.zip")) == errno.ENOENT


def test_an_empty_archive_that_is_replaced_is_noticed(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """F-11, N-24: An archive without bytes is looked at again with each open."""
    fs = new_fs(attr_timeout="0s")
    task = put(fs, b"")
    assert fs.read(f"{task}/output.zip") == b""
    cloud.put_object(f"{task}/output.zip", GOOD)
    assert_same(fs.read(f"{task}/output.zip"), GOOD)
    assert sorted(fs.names(f"{task}/outputs")) == ["good", "more"]


@pytest.mark.parametrize("kind", REFUSED)
def test_download_of_an_archive_that_cannot_be_shown(
    cloud: FakeCloud, tmp_path: Path, kind: str
) -> None:
    """C-41: `download --archive` gives the bytes; without it one line says why there are no files
    and names `--archive`."""
    make, _, why = REFUSED[kind]
    body = make()
    task = cloud.add_task(end_time=LONG_AGO)
    cloud.put_object(f"{task}/output.zip", body)
    taskfs = Taskfs(tmp_path, cloud)
    done = taskfs("download", task, "--archive", "--output-dir", str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    assert_same((tmp_path / "out" / "output.zip").read_bytes(), body)
    assert os.listdir(tmp_path / "out") == ["output.zip"]
    check_no_files(taskfs, task, why)


def test_download_of_too_large_a_directory(cloud: FakeCloud, tmp_path: Path) -> None:
    """C-41: One line says that the directory is too large, and names `--archive`."""
    task = cloud.add_task(end_time=LONG_AGO)
    cloud.put_object(f"{task}/output.zip", OversizedArchive())
    check_no_files(Taskfs(tmp_path, cloud), task, "MiB")


def check_no_files(taskfs: Taskfs, task: str, why: str) -> None:
    """Check that a download without `--archive` fails and writes nothing."""
    folder = taskfs.home / "files"
    done = taskfs("download", task, "--output-dir", str(folder))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert task in line and why in line and "--archive" in line
    with contextlib.suppress(FileNotFoundError):
        assert os.listdir(folder) == []

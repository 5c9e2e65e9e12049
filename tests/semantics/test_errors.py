"""Which errno a failure has, and what the log says of it."""

import errno
import logging
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.fake_api import FakeCloud
from tests.file_systems import (
    FileSystem,
    Mounted,
    OpenFile,
    answer,
    assert_same,
    errno_of,
    text,
    write,
)
from tests.mounts import eventually
from tests.outputs import LONG_AGO
from tests.zips import Entry, build

CHANGES: tuple[tuple[Any, ...], ...] = (
    ("mkdir", "new", 0o755),
    ("mkdir", "{task}/outputs/new", 0o755),
    ("create", "new.txt", 0o644),
    ("create", "{task}/new.txt", 0o644),
    ("create", "{task}/outputs/new.txt", 0o644),
    ("unlink", "{task}/status"),
    ("unlink", "{task}/kill"),
    ("unlink", "{task}/outputs/a"),
    ("unlink", ".latest"),
    ("rmdir", "{task}/outputs"),
    ("rmdir", ".by-status/success"),
    ("rename", "{task}/status", "/{task}/renamed"),
    ("rename", "{task}", "/renamed"),
    ("link", "{task}/hard", "/{task}/status"),
    ("symlink", "{task}/soft", "status"),
    ("truncate", "{task}/status", 0),
    ("truncate", "{task}/outputs/a", 0),
    ("chmod", "{task}", 0o700),
    ("chmod", "{task}/status", 0o600),
    ("chown", "{task}/outputs/a", 1, 1),
    ("utimens", "{task}/status"),
    ("utimens", "{task}/outputs/a"),
    ("utimens", "{task}"),
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: " ".join(map(str, change)))
def test_every_change_is_refused(fs: FileSystem, change: tuple[Any, ...]) -> None:
    """X-7: Each change is EROFS."""
    task = fs.cloud.add_task(outputs={"a": b"x"})
    fs.names(task)
    eventually(lambda: ".latest" in fs.names())  # a listing without tasks may be cached
    kind, *arguments = (
        part.format(task=task) if isinstance(part, str) else part for part in change
    )
    assert errno_of(lambda: fs.change(kind, *arguments)) == errno.EROFS
    assert text(fs, f"{task}/outputs/a") == "x"
    assert not [r for r in fs.cloud.requests if r.method != "GET" and task in r.path]


def test_a_key_that_is_refused_is_eacces(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """X-2: A refused key is EACCES."""
    task = cloud.add_task(status="started", end_time=LONG_AGO)
    fs = new_fs(dir_cache_time="0s", status_cache_time="0s", attr_timeout="0s")
    assert text(fs, f"{task}/status") == "started\n"
    cloud.rotate_key()
    assert errno_of(fs.names) == errno.EACCES
    assert errno_of(lambda: fs.read(f"{task}/status")) == errno.EACCES
    assert errno_of(lambda: write(fs, f"{task}/kill")) == errno.EACCES
    assert cloud.killed == []


def test_no_answer_in_time_is_etimedout(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """X-3, X-8: No answer in time is ETIMEDOUT and never EAGAIN."""
    task = cloud.add_task(status="started", end_time=LONG_AGO)
    fs = new_fs(timeout="1s", dir_cache_time="0s", status_cache_time="0s", attr_timeout="0s")
    assert answer(lambda: text(fs, f"{task}/status")) == "started\n"
    cloud.faults.add("stall", times=None)
    assert errno_of(fs.names) == errno.ETIMEDOUT
    cloud.faults.clear()
    assert task in answer(fs.names)
    cloud.pause()
    assert errno_of(fs.names) == errno.ETIMEDOUT
    assert errno_of(lambda: fs.read(f"{task}/status")) == errno.ETIMEDOUT
    cloud.resume()
    assert answer(lambda: text(fs, f"{task}/status")) == "started\n"


def test_an_answer_that_makes_no_sense_is_eio(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """X-4: An answer that makes no sense is EIO."""
    task = cloud.add_task(status="started")
    fs = new_fs(dir_cache_time="0s", status_cache_time="0s", attr_timeout="0s")
    assert text(fs, f"{task}/status") == "started\n"
    values: list[Any] = [[], {"tasks": 3, "total_size": 1}, {"tasks": []}, "text", None, 7]
    for value in values:
        cloud.faults.add("json", value=value, path="/tasks", times=None)
        assert errno_of(fs.names) == errno.EIO, value
        cloud.faults.clear()
    assert task in fs.names()


def test_one_bad_record_does_not_break_the_others(fs: FileSystem) -> None:
    """N-20, X-17: New fields and statuses, and a record without an id, break nothing."""
    good = fs.cloud.add_task(status="started")
    bad = fs.cloud.add_task("../escape", status="started")
    lenient = fs.cloud.add_task()
    fs.cloud.update_task(
        lenient, metrics=None, executer=7, project=["x"], start_time="soon", end_time=12
    )
    try:
        while not {good, lenient} <= set(names := fs.names()):
            pass
        assert bad not in names
        assert not [name for name in names if "/" in name or name == ".."]
        for name in fs.names(lenient):
            fs.stat(f"{lenient}/{name}")
        eventually(lambda: text(fs, f"{lenient}/machine_type") == "")
    finally:
        fs.cloud.remove_task(bad)
        fs.cloud.remove_task(lenient)


@pytest.mark.parametrize("method", [0, 8])
def test_a_failed_read_never_looks_like_a_short_file(fs: FileSystem, method: int) -> None:
    """X-9: A failed read is an error and never a short file."""
    content = os.urandom(1_500_000)
    task = fs.cloud.add_task(end_time=LONG_AGO)
    fs.cloud.put_object(
        f"{task}/output.zip", build([Entry(b"artifacts/x", content, method), Entry(b"artifacts/y")])
    )
    assert fs.stat(f"{task}/outputs/x").st_size == len(content)

    def read_whole(opened: OpenFile) -> bytes:
        received = b""
        while piece := opened.read_at(len(received), 50_000):
            received += piece
        return received

    fs.cloud.faults.add("status", side="store", status=403, path=task, skip=1, times=None)
    with fs.open(f"{task}/outputs/x") as opened:
        assert errno_of(lambda: read_whole(opened)) == errno.EACCES
        fs.cloud.faults.clear()
        assert_same(read_whole(opened), content)
    assert_same(fs.read(f"{task}/outputs/x"), content)


def test_a_failure_is_logged_once(
    new_fs: Callable[..., FileSystem],
    cloud: FakeCloud,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """X-10, Y-6: A failure is logged once with operation, path and cause, without keys or
    signatures."""
    task = cloud.add_task(end_time=LONG_AGO)
    cloud.put_object(f"{task}/output.zip", build([Entry(b"artifacts/x", b"x")]))
    fs = new_fs(attr_timeout="5s")
    fs.names(task)
    cloud.faults.add("status", side="store", status=403, times=None)
    with caplog.at_level(logging.WARNING, logger="taskfs"):
        assert errno_of(lambda: fs.stat(f"{task}/output_files_info")) == errno.EACCES
    if isinstance(fs, Mounted):
        lines = (fs.path.parent / "taskfs.log").read_text().splitlines()
    else:
        lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    lines = [line for line in lines if "output_files_info" in line or "output.zip" in line]
    assert len(lines) == 1
    for part in ("getattr", f"/{task}/output_files_info", "EACCES", "403"):
        assert part in lines[0]
    assert "Signature" not in lines[0]
    assert cloud.api_key not in lines[0]


def test_frequent_expected_failures_are_not_logged(
    tree: FileSystem, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
) -> None:
    """X-10: A name that does not exist is not logged."""
    task = cloud.add_task(status="started")
    for name in (".git", f"{task}/.hidden", "0" * 25):
        assert errno_of(lambda name=name: tree.stat(name)) == errno.ENOENT  # type: ignore[misc]
    assert errno_of(lambda: tree.xattr(task, "security.capability")) == errno.ENODATA
    assert errno_of(lambda: tree.change("mkdir", "new", 0o755)) == errno.EROFS
    assert caplog.records == []

"""Large accounts and archives: requests and memory are counted, not time."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from taskfs.core import API_THREADS
from taskfs.tasks.archives import PREFETCH_THREADS
from tests.archive_harness import run_threads
from tests.conftest import in_process
from tests.fake_api import FakeCloud
from tests.file_systems import InProcess, text
from tests.fork_server import ROOT
from tests.generated_archive import FIELDS, GeneratedArchive
from tests.mounts import Mount, eventually
from tests.outputs import LONG_AGO
from tests.zips import Entry, build

TASKS: Final = 20_000
PAGES: Final = 40
UNFINISHED: Final = 100
MEMBERS: Final = 100_000
PIECE: Final = 4 << 20  # of a directory, for one request
LONG: Final = 70_000  # members of an archive with a directory over 4 MiB
LONG_ONES: Final = API_THREADS + PREFETCH_THREADS + 1


@pytest.fixture
def large(cloud: FakeCloud, tmp_path: Path) -> Iterator[InProcess]:
    """The tree of an account of 20,000 tasks, of which 100 still run, with listings that do not
    grow old during a test on a busy machine."""
    for _ in range(TASKS - UNFINISHED):
        cloud.add_task(end_time=LONG_AGO)
    for _ in range(UNFINISHED):
        cloud.add_task(status="computation-started")
    options = {"dir_cache_time": "1h", "timeout": "60s"}
    with in_process(cloud, tmp_path / "cache", options) as fs:
        cloud.clear_requests()
        yield fs


def is_page(record: object) -> bool:
    return getattr(record, "path", "") == "/tasks" and "active" not in getattr(record, "query", {})


def test_20_000_tasks(large: InProcess) -> None:
    """F-7: 20,000 tasks are listed by 40 requests, several of them in flight at once, and no page
    is asked for twice. Reading every `status` after that costs only the bulk update of the
    unfinished."""
    stall = large.cloud.faults.add("stall", path="/tasks", times=None, skip=1)
    names: list[str] = []

    def release() -> None:
        eventually(lambda: stall.hits >= 4)  # none of them has been answered
        stall.times = 0
        large.cloud.faults.release()

    run_threads([lambda: names.extend(large.names()), release], 120)
    assert len([name for name in names if not name.startswith(".")]) == TASKS
    pages = [int(record.query["page"][0]) for record in large.cloud.requests]
    assert sorted(pages) == list(range(1, PAGES + 1))
    names = [name for name in names if not name.startswith(".")]
    large.cloud.clear_requests()
    seen = [text(large, f"{name}/status") for name in names]
    assert seen.count("success\n") == TASKS - UNFINISHED
    assert seen.count("computation-started\n") == UNFINISHED
    sent = large.cloud.requests
    assert not [record for record in sent if record.path != "/tasks" or is_page(record)]
    # One for each 2 s that it took; each brings all of the unfinished at once.
    uptime_s = json.loads(text(large, ".taskfs/stats.json"))["uptime_seconds"]
    assert len(sent) <= uptime_s / 2 + 1


def put_members(cloud: FakeCloud, count: int) -> str:
    """Add a task with *count* small files, 1,000 to a directory; return the path of its outputs."""
    entries = [
        Entry(b"artifacts/step-%03d/file-%06d.vtk" % (n // 1000, n), packed=b"\3\0")
        for n in range(count)
    ]
    task = cloud.add_task(end_time=LONG_AGO, metrics={"output_total_files": count})
    cloud.put_object(f"{task}/output.zip", build(entries, zip64=True))
    return f"{task}/outputs"


@pytest.mark.mount
def test_100_000_members_in_one_archive(
    new_mount: Callable[..., Mount], cloud: FakeCloud, tmp_path: Path
) -> None:
    """A-13, R-1, R-11, R-13, R-21: `find -ls` over 100,000 members costs one signed URL, one range
    for the end and one for each 4 MiB of the directory, and less than 1 KB of memory a member;
    a later mount asks the store for nothing."""
    mount = new_mount(cache_dir=str(tmp_path / "cache"))

    def resident() -> int:
        return int(json.loads((mount.path / ".taskfs/stats.json").read_text())["memory_bytes"])

    def find(mount: Mount, top: str) -> int:
        done = subprocess.run(
            ["find", mount.path / top, "-type", "f", "-ls"], capture_output=True, timeout=150
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.count(b"\n")

    find(mount, put_members(cloud, 1000))  # what there is only once
    held = [resident()]
    for count in (MEMBERS // 5, MEMBERS):
        top = put_members(cloud, count)
        cloud.clear_requests()
        assert find(mount, top) == count
        held.append(resident())
        ranges = [record for record in cloud.requests if record.side == "store"]
        stored = cloud.get_object(f"{Path(top).parent}/output.zip")
        assert stored is not None
        sent = sum(record.bytes_sent for record in ranges)
        assert len(ranges) <= 1 + -(-sent // PIECE)
        assert sent < 1.2 * stored.source.size
    # Freed memory is used again, so each may look smaller than it is.
    assert held[1] - held[0] < MEMBERS // 5 * 1000 + (16 << 20)
    assert held[2] - held[0] < MEMBERS * 6 // 5 * 1000 + (16 << 20)
    mount.stop()
    second = new_mount(cache_dir=str(tmp_path / "cache"))
    cloud.clear_requests()
    assert len(os.listdir(second.path / top / "step-099")) == 1000
    assert not [record for record in cloud.requests if record.side == "store"]


@pytest.mark.mount
@pytest.mark.timeout(300)
def test_a_short_soak_ends_with_every_byte_right() -> None:
    """R-19, R-20: Ten seconds of `scripts/soak`: under random faults every byte is right, memory is
    flat and no thread is left."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.soak",
            "--minutes",
            "0.17",
            "--seed",
            "11",
            "--tasks",
            "2000",
            "--members",
            "10000",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("false ENOENT", "short listings"):
        assert re.search(rf"^{name} +0\b", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^daemon killed +[1-9]", done.stdout, re.MULTILINE), done.stdout
    for name in ("actions", "faults injected", "errors", "violations", "memory", "threads"):
        assert f"\n{name}" in done.stdout
    counts = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert counts["violations"].split()[1] == "0"
    assert int(counts["actions"].split()[1]) > 50


def ends_sent(cloud: FakeCloud) -> set[str]:
    """Return the tasks whose archives' ends the store has sent."""
    sent = [each.path for each in cloud.requests if each.side == "store" and each.bytes_sent]
    return {Path(path).parent.name for path in sent}


def test_a_small_archive_beside_long_ones(cloud: FakeCloud, tmp_path: Path) -> None:
    """R-54: Archives with long directories, more than there are threads that load and prefetch
    archives, of which the store sends only the ends, delay no listing of a small archive; once the
    store goes on, all are shown."""
    long_ones = [cloud.add_task(end_time=LONG_AGO) for _ in range(LONG_ONES)]
    small = cloud.add_task(end_time=LONG_AGO)
    for task in long_ones:
        cloud.put_object(f"{task}/output.zip", GeneratedArchive(LONG))
        cloud.faults.add("stall", side="store", path=task, times=None, skip=1)
    cloud.put_object(f"{small}/output.zip", build([Entry(b"artifacts/a", b"a")]))
    options = {"dir_cache_time": "1h", "timeout": "60s"}
    with (
        in_process(cloud, tmp_path / "cache", options) as fs,
        ThreadPoolExecutor(LONG_ONES) as callers,
    ):
        fs.names()
        listings = [callers.submit(fs.names, f"{task}/outputs") for task in long_ones]
        try:
            # A task walk may have loaded the small one already.
            eventually(lambda: len(ends_sent(cloud) - {small}) == LONG_ONES)
            assert fs.names(f"{small}/outputs") == ["a"]
            assert not any(listing.done() for listing in listings)
        finally:
            cloud.faults.clear()
        for listing in listings:
            assert len(listing.result()) == LONG // FIELDS

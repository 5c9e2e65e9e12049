"""The age of names, statuses and bytes, and the requests that keep them fresh."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, Mounted, answer, errno_of, text, write
from tests.mounts import eventually
from tests.outputs import LONG_AGO
from tests.zips import Entry, build

SLACK_S = 4.0  # of a busy machine


def pages(cloud: FakeCloud) -> list[int]:
    """Return the numbers of the listing's pages that were asked for."""
    listings = [r for r in cloud.requests if r.path == "/tasks" and "active" not in r.query]
    return sorted(int(r.query["page"][0]) for r in listings)


def updates(cloud: FakeCloud) -> int:
    """Count the requests for all unfinished tasks."""
    return sum(r.path == "/tasks" and "active" in r.query for r in cloud.requests)


def singles(cloud: FakeCloud) -> list[str]:
    """Return the requests that are about one task or one object."""
    return [r.path for r in cloud.requests if r.path != "/tasks"]


@contextmanager
def after(seconds: float, action: Callable[[], object]) -> Iterator[None]:
    timer = threading.Timer(seconds, action)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def test_statuses_of_all_tasks_cost_the_pages_of_a_listing(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """F-7: `cat */status` costs the pages of a listing and one bulk update per 2 s."""
    tasks = {cloud.add_task(status="success", end_time=LONG_AGO): "success" for _ in range(1100)}
    tasks |= {cloud.add_task(status="started"): "started" for _ in range(40)}
    began = time.monotonic()
    fs = new_fs()  # a mount begins with the listing
    names = [name for name in fs.names() if not name.startswith(".")]
    assert {name: text(fs, f"{name}/status").rstrip() for name in names} == tasks
    elapsed = time.monotonic() - began
    if elapsed < 8:  # else the listing was due again
        assert pages(cloud) == [1, 2, 3]
    assert updates(cloud) <= elapsed / 2
    assert singles(cloud) == []


def test_listing_and_stat_cost_no_request_of_their_own(tree: FileSystem, cloud: FakeCloud) -> None:
    """A-13: Listing and `stat` cost no request beyond the bulk listing, one signed URL and one
    range."""
    tasks = [cloud.add_task(end_time=LONG_AGO, outputs={"a/b": b"x", "c": b"y"}) for _ in range(20)]
    cloud.clear_requests()
    tree.names()
    for task in tasks:
        for name in tree.names(task):
            if name not in ("outputs", "inputs", "output_files_info"):
                tree.stat(f"{task}/{name}")
        tree.stat(task)
    assert [r.path for r in cloud.requests] == ["/tasks"]
    cloud.clear_requests()
    tree.stat(f"{tasks[0]}/output_files_info")
    assert [(r.side, r.path) for r in cloud.requests] == [
        ("api", "/storage/signed-urls"),
        ("store", f"/demo-bucket/{tasks[0]}/output.zip"),
    ]
    for path in ("output_files_info", "outputs", "outputs/a", "outputs/a/b", "output.zip"):
        tree.stat(f"{tasks[0]}/{path}")
    tree.read(f"{tasks[0]}/output_files_info")
    assert tree.names(f"{tasks[0]}/outputs") == ["a", "c"]
    assert len(cloud.requests) == 2


def test_listings_read_no_archive_bytes_but_the_directory(
    tree: FileSystem, cloud: FakeCloud
) -> None:
    """N-4, R-1: Listing `outputs/` reads only the archive's directory."""
    task = cloud.add_task(end_time=LONG_AGO)
    content = os.urandom(3_000_000)
    cloud.put_object(f"{task}/output.zip", build([Entry(b"artifacts/big", content, 0)]))
    assert tree.stat(f"{task}/outputs/big").st_size == len(content)
    assert tree.names(f"{task}/outputs") == ["big"]
    sent = sum(r.bytes_sent for r in cloud.requests if r.side == "store")
    assert sent < 200_000
    with tree.open(f"{task}/outputs/big"):
        pass
    assert sum(r.bytes_sent for r in cloud.requests if r.side == "store") == sent


def test_probes_cost_no_request(new_fs: Callable[..., FileSystem], cloud: FakeCloud) -> None:
    """N-19: Names that cannot be an id cost no request."""
    task = cloud.add_task(end_time=LONG_AGO)
    fs = new_fs()
    fs.names()
    cloud.clear_requests()
    for name in (
        *(".git", ".Trash", ".Trash-0", ".Trash-1000", "autorun.inf", ".hidden", "desktop.ini"),
        *("lost+found", "Thumbs.db", ".directory", "BDMV", ".xdg-volume-info", "HEAD", "objects"),
        *("README", ".taskfs.swp", "node_modules", f"{task}.bak", "Å" * 12, "%41", " "),
        *(f"{task}/.git", f"{task}/.hidden", f"{task}/HEAD", ".by-status/.git", ".taskfs/HEAD"),
    ):
        with pytest.raises(FileNotFoundError):
            fs.stat(name)
    assert [(r.path, r.query) for r in cloud.requests] == []


def test_a_task_younger_than_the_listing_is_found_by_its_name(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """F-6: A task younger than the listing is found by its name."""
    fs = new_fs(dir_cache_time="1h", status_cache_time="1h")
    assert ".by-status" in fs.names()
    young = cloud.add_task(status="submitted", outputs=None)
    cloud.clear_requests()
    assert young not in fs.names()
    assert text(fs, f"{young}/status") == "submitted\n"
    assert [r.path for r in cloud.requests] == [f"/tasks/{young}"]
    missing = "0123456789abcdefghijklmno"
    cloud.clear_requests()
    for _ in range(5):
        with pytest.raises(FileNotFoundError):
            fs.stat(missing)
    assert len(cloud.requests) == 1


def test_a_terminal_status_is_final(fs: FileSystem) -> None:
    """F-4: A terminal status is not asked for again."""
    task = fs.cloud.add_task(status="failed")
    assert text(fs, f"{task}/status") == "failed\n"
    fs.cloud.set_status(task, "started")
    time.sleep(0.5)
    assert task in fs.names()
    assert text(fs, f"{task}/status") == "failed\n"


def test_the_rest_of_a_terminal_record_is_as_fresh_as_the_listing(fs: FileSystem) -> None:
    """F-5: The rest of a finished record is as fresh as the listing."""
    task = fs.cloud.add_task(status="failed", error_detail="before")
    assert text(fs, f"{task}/error") == "before\n"
    fs.cloud.update_task(task, error_detail="afterwards", metrics={"computation_seconds": 7})
    eventually(lambda: text(fs, f"{task}/error") == "afterwards\n")
    assert text(fs, f"{task}/computation_time") == "00:00:07\n"


@pytest.mark.mount
def test_statuses_are_at_most_two_seconds_old(mnt: Path, cloud: FakeCloud) -> None:
    """F-2, F-3: A status is at most 2 s old when it is asked for, and what a `stat` reported is
    served for 1 s more."""

    def only_read(status: Path) -> bool:
        return status.read_text() != "started\n"

    def stat_and_read(status: Path) -> bool:
        status.stat()
        return status.read_text() != "started\n"

    def only_stat(status: Path) -> bool:
        return status.stat().st_size != len("started\n")

    ways = (only_read, stat_and_read, only_stat)
    tasks = [cloud.add_task(status="started") for _ in ways]
    files = [mnt / task / "status" for task in tasks]
    os.listdir(mnt)
    changed = time.monotonic()
    for task in tasks:
        cloud.set_status(task, "computation-started")
    ages: dict[str, float] = {}
    time.sleep(1.7)  # a text rendered now is as old as that already
    while len(ages) < len(ways):
        for way, file in zip(ways, files, strict=True):
            calls = time.monotonic()
            if way.__name__ not in ages and way(file):
                ages[way.__name__] = calls - changed
        assert time.monotonic() - changed < 20
        time.sleep(0.05)
    assert max(ages.values()) < 2 + 1 + SLACK_S, ages


def test_listings_are_at_most_ten_seconds_old(fs: FileSystem) -> None:
    """F-1: A listing is at most `--dir-cache-time` old (here 0.3 s)."""
    assert ".by-status" in fs.names()
    task = fs.cloud.add_task()
    changed = time.monotonic()
    eventually(lambda: task in fs.names())
    assert time.monotonic() - changed < 0.3 + 2 * SLACK_S
    fs.cloud.remove_task(task)
    changed = time.monotonic()
    eventually(lambda: task not in fs.names())
    assert time.monotonic() - changed < 0.3 + 2 * SLACK_S


@pytest.mark.mount
def test_a_missing_archive_is_requested_again(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """F-12: A missing or removed archive shows as an empty `outputs/` and is asked for again after
    at most 5 s."""
    cloud, fs = shared_cloud, Mounted(shared_cloud, shared_mnt)
    content = os.urandom(300_000)
    archive = build([Entry(b"artifacts/a", content, 0), Entry(b"artifacts/b", content[:9], 0)])
    late = cloud.add_task(end_time=LONG_AGO)
    removed = cloud.add_task(end_time=LONG_AGO)
    failed = cloud.add_task(status="failed")  # just now, but only success is waited for
    cloud.put_object(f"{removed}/output.zip", archive)
    assert sorted(fs.names(f"{removed}/outputs")) == ["a", "b"]
    cloud.remove_object(f"{removed}/output.zip")
    with pytest.raises(FileNotFoundError):
        fs.read(f"{removed}/outputs/a")  # not read before: the 404 drops the index
    tasks = (late, removed, failed)
    for task in tasks:
        assert fs.names(f"{task}/outputs") == []
        assert text(fs, f"{task}/output_files_info") == ""
        with pytest.raises(FileNotFoundError):
            fs.stat(f"{task}/outputs/a")
    cloud.clear_requests()
    for _ in range(20):
        assert [fs.names(f"{task}/outputs") for task in tasks] == [[], [], []]
    assert [r.path for r in cloud.requests if r.side == "store"] == []
    for task in tasks:
        cloud.put_object(f"{task}/output.zip", archive)
    came = time.monotonic()
    eventually(lambda: all(len(fs.names(f"{task}/outputs")) == 2 for task in tasks))
    assert time.monotonic() - came < 5 + 2 * SLACK_S
    for task in tasks:
        assert sorted(fs.names(f"{task}/outputs")) == ["a", "b"]
        assert fs.read(f"{task}/outputs/b") == content[:9]


def test_after_success_the_archive_is_waited_for(fs: FileSystem) -> None:
    """F-13: For 60 s after a `success` a read of `outputs/` waits for the archive."""
    archive = build([Entry(b"artifacts/a", b"here")])

    def put_later(ask: Callable[[str], object]) -> object:
        task = fs.cloud.add_task(status="success")
        with after(0.7, lambda: fs.cloud.put_object(f"{task}/output.zip", archive)):
            answer = ask(task)
            assert fs.names(f"{task}/inputs") == []  # nothing tells that there will be any
        return answer

    ways: list[Callable[[str], object]] = [
        lambda task: fs.names(f"{task}/outputs"),
        lambda task: fs.read(f"{task}/outputs/a"),
        lambda task: fs.read(f"{task}/output.zip"),
        lambda task: fs.stat(f"{task}/outputs/a").st_size,
    ]
    with ThreadPoolExecutor(len(ways)) as pool:
        assert list(pool.map(put_later, ways)) == [["a"], b"here", archive, 4]


def test_an_archive_that_does_not_come_is_etimedout(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """F-13: If the archive does not come within `--timeout`, the read is ETIMEDOUT."""
    task = cloud.add_task(status="success")
    fs = new_fs(timeout="1s", attr_timeout="0s")
    with pytest.raises(OSError) as caught:
        fs.names(f"{task}/outputs")
    assert caught.value.errno == errno.ETIMEDOUT
    assert answer(lambda: text(fs, f"{task}/status")) == "success\n"
    assert answer(lambda: text(fs, f"{task}/output_files_info")) == ""
    cloud.update_task(task, end_time=LONG_AGO)
    answer(lambda: write(fs, ".taskfs/refresh"))
    answer(fs.names)
    assert answer(lambda: fs.names(f"{task}/outputs")) == []


def test_only_a_404_is_enoent_and_failures_are_not_kept(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """F-14, F-15: Only a real 404 is ENOENT, and a transient failure is neither cached nor shown as
    an empty directory."""
    task = cloud.add_task(status="started", end_time=LONG_AGO)
    done = cloud.add_task(end_time=LONG_AGO)
    cloud.put_object(f"{done}/output.zip", build([Entry(b"artifacts/a", b"x" * 99)]))
    fs = new_fs(timeout="5s", dir_cache_time="0s", status_cache_time="0s", attr_timeout="0s")
    calls: list[Callable[[], object]] = [
        fs.names,
        lambda: fs.stat(f"{task}/status"),
        lambda: fs.read(f"{task}/status"),
        lambda: fs.stat(f"{len(cloud.requests):025}"),
        lambda: fs.names(".by-status"),
        lambda: fs.target(".latest"),
        lambda: fs.names(f"{done}/outputs"),
        lambda: fs.stat(f"{done}/outputs/a"),
        lambda: fs.stat(f"{done}/output.zip"),
        lambda: fs.read(f"{done}/output_files_info"),
    ]
    fs.names()
    faults: list[tuple[str, dict[str, Any], int]] = [
        # Clients give up at once, because they would have to pause for so long.
        ("status", {"status": 503, "retry_after": 3600}, errno.EIO),
        ("status", {"status": 429, "retry_after": 3600}, errno.ETIMEDOUT),
        ("reset", {}, errno.ETIMEDOUT),
        ("status", {"status": 403}, errno.EACCES),
        ("html", {}, errno.EIO),
    ]
    if isinstance(fs, Mounted):  # the kernel asks for one name of a directory after the other
        faults = faults[::3]
    for kind, options, expected in faults:
        cloud.faults.add(kind, times=None, **options)
        with ThreadPoolExecutor(len(calls)) as pool:
            assert list(pool.map(errno_of, calls)) == [expected] * len(calls), (kind, options)
        cloud.faults.clear()
        assert task in fs.names()
        assert text(fs, f"{task}/status") == "started\n"
        assert errno_of(lambda: fs.stat(f"{len(cloud.requests):025}")) == errno.ENOENT
    assert fs.names(f"{done}/outputs") == ["a"]
    assert fs.read(f"{done}/outputs/a") == b"x" * 99


def test_what_is_final_is_shown_while_the_api_is_away(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """F-4, O-12: A terminal status needs no answer of the API."""
    task = cloud.add_task(status="failed", error_detail="oh", metadata=None)
    fs = new_fs(timeout="5s", attr_timeout="0s")
    assert text(fs, f"{task}/status") == "failed\n"
    cloud.pause()
    time.sleep(0.2)
    assert text(fs, f"{task}/status") == "failed\n"
    assert text(fs, f"{task}/error") == "oh\n"

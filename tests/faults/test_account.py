"""An account that changes, and an API that limits the rate, while a listing is read."""

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from taskfs.support.interruptible_wait import Waiter
from tests.conftest import in_process
from tests.fake_api import FakeCloud, Fault
from tests.file_systems import FileSystem, InProcess
from tests.mounts import eventually
from tests.outputs import LONG_AGO, QUICK

# More than the 2000 tasks up to which a listing is read again at once: seven pages of 500.
COUNT: Final = 3100
PAGES: Final = 7
# The listing does not expire during a test.
LASTING: Final = {**QUICK, "dir_cache_time": "1h"}


def created(number: int) -> str:
    return f"2025-06-{1 + number // 1000:02d}T08:{number // 60 % 60:02d}:{number % 60:02d}+00:00"


def add(cloud: FakeCloud, number: int) -> str:
    return cloud.add_task(create_time=created(number), end_time=LONG_AGO)


def tasks_of(fs: FileSystem) -> list[str]:
    """Return the listed tasks, newest first."""
    return [name for name in fs.names() if not name.startswith(".")]


def shows(fs: FileSystem, cloud: FakeCloud) -> bool:
    return tasks_of(fs) == list(cloud.statuses())


def pages(cloud: FakeCloud) -> Counter[str]:
    """Return how often each page of a whole listing was answered."""
    return Counter(
        record.query["page"][0]
        for record in list(cloud.requests)
        if record.status == 200 and record.query.get("per_page") == ["500"]
    )


@pytest.fixture
def account(cloud: FakeCloud) -> FakeCloud:
    for number in range(COUNT):
        add(cloud, number)
    return cloud


@pytest.fixture
def fs(account: FakeCloud, tmp_path: Path) -> Iterator[InProcess]:
    with in_process(account, tmp_path, {**QUICK, "timeout": "20s"}) as fs:
        yield fs


def test_pages_that_shift_while_they_are_listed(fs: InProcess) -> None:
    """N-1, F-20, F-15: Tasks that come and go between the pages of a first listing neither hide nor
    double any other."""
    cloud = fs.cloud
    before = list(cloud.statuses())
    gone, come = iter(before[700:1900:400]), iter(range(COUNT, COUNT + 3))

    def shift(record: Any) -> bool:
        page = record.query.get("page", [""])[0]
        if page == "3" and (task := next(gone, None)):
            cloud.remove_task(task)
        if page == "5" and (number := next(come, None)):
            add(cloud, number)
        return False

    cloud.faults.add("status", status=500, path="/tasks", match=shift, times=None)
    first = tasks_of(fs)
    assert len(first) == len(set(first))
    assert set(before) & set(cloud.statuses()) <= set(first)
    cloud.faults.clear()
    eventually(lambda: shows(fs, cloud))


def test_a_task_removed_and_another_added(fs: InProcess) -> None:
    """F-18: One task removed and another added leave `total_size` as it was; both are noticed."""
    cloud = fs.cloud
    tasks = tasks_of(fs)
    cloud.remove_task(tasks[1700])
    added = add(cloud, COUNT)
    eventually(lambda: shows(fs, cloud))
    assert tasks_of(fs) == [added, *tasks[:1700], *tasks[1701:]]


def test_equal_creation_times(cloud: FakeCloud, tmp_path: Path) -> None:
    """F-24, F-18: Where all tasks have one creation time, the order is that of the API's listing,
    none is hidden, and those that come and go are noticed."""
    for _ in range(COUNT):
        add(cloud, 7)
    with in_process(cloud, tmp_path, QUICK) as fs:
        assert shows(fs, cloud)
        for _ in range(2):
            add(cloud, 7)
        eventually(lambda: shows(fs, cloud))
        cloud.remove_task(tasks_of(fs)[900])
        eventually(lambda: shows(fs, cloud))


def limit_page(cloud: FakeCloud, page: int, *, retry_after: float, times: int) -> Fault:
    """Have the API answer requests of one page with 429."""
    return cloud.faults.add(
        "status",
        status=429,
        retry_after=retry_after,
        times=times,
        match=lambda record: record.query.get("page") == [str(page)],
    )


def test_429_in_the_middle_of_a_first_listing(fs: InProcess) -> None:
    """F-25, X-16: A page that the API limits is asked for again, and no other page is."""
    cloud = fs.cloud
    limit = limit_page(cloud, 4, retry_after=1, times=2)
    assert shows(fs, cloud)
    assert limit.hits == 2
    assert pages(cloud) == Counter({str(page + 1): 1 for page in range(PAGES)})


def test_429_in_the_middle_of_a_listing_in_the_background(
    fs: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-25: Where the API limits it for longer than `--timeout`, a whole listing in the background
    waits and continues there."""
    monkeypatch.setattr("taskfs.tasks.whole_listing.PAGE_PAUSE_S", 0.2)
    cloud = fs.cloud
    tasks = tasks_of(fs)
    for task in tasks[1100:1102]:
        cloud.remove_task(task)
    late = add(cloud, 1000)  # older than those that an update asks for: all pages are read
    cloud.clear_requests()
    limit = limit_page(cloud, 6, retry_after=3600, times=3)
    eventually(lambda: late in tasks_of(fs))
    eventually(lambda: limit.hits == 3)
    eventually(lambda: shows(fs, cloud))
    assert pages(cloud)["5"] <= 2  # by the search for a removed task, and by the listing


@pytest.fixture
def long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that fails in the background is not requested again during the test by itself."""
    monkeypatch.setattr("taskfs.tasks.whole_listing.PAGE_PAUSE_S", 600.0)


def stop_background(fs: FileSystem) -> None:
    """Remove a task, and have the API limit the search for it until that waits."""
    cloud = fs.cloud
    cloud.remove_task(tasks_of(fs)[1700])
    limits = [limit_page(cloud, page, retry_after=3600, times=1) for page in (2, 3, 5, 6)]

    def is_waiting() -> bool:
        tasks_of(fs)
        return all(limit.hits for limit in limits)

    eventually(is_waiting)


def test_updates_go_on_while_the_background_waits(
    account: FakeCloud, tmp_path: Path, long_pause: None
) -> None:
    """F-25, F-1: While a whole listing in the background waits because of 429, updates of the
    listing do not."""
    account.update_task(list(account.statuses())[-1], status="started", is_terminated=False)
    with in_process(account, tmp_path, QUICK) as fs:
        stop_background(fs)
        account.clear_requests()
        added = add(account, COUNT)
        eventually(lambda: tasks_of(fs)[0] == added)
        assert set(pages(account)) <= {"1"}


def test_a_listing_beside_one_that_waits(
    account: FakeCloud, tmp_path: Path, long_pause: None
) -> None:
    """F-25, F-1: While a whole listing in the background waits because of 429, the listing of
    another status does not."""
    # More than one page.
    failed = [account.add_task(status="failed", end_time=LONG_AGO) for _ in range(600)]
    with in_process(account, tmp_path, {**QUICK, "status": "success,failed"}) as fs:
        stop_background(fs)
        account.remove_task(failed[0])
        eventually(lambda: not set(failed[:1]) & set(tasks_of(fs)))
        assert set(failed[1:]) < set(tasks_of(fs))


def test_a_missing_task_ends_the_pause(fs: InProcess, long_pause: None) -> None:
    """F-25, F-27: A whole listing that waits because of 429 goes on at once where the listing
    lacks a task."""
    stop_background(fs)
    for _ in range(2):
        add(fs.cloud, 1000)  # older than those that an update asks for
    eventually(lambda: shows(fs, fs.cloud))


def test_pages_that_are_refused_are_not_requested_again(
    fs: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-25: Behind a pause, only pages are requested again that failed for a while."""
    monkeypatch.setattr("taskfs.tasks.whole_listing.PAGE_PAUSE_S", 0.2)
    cloud = fs.cloud
    tasks = tasks_of(fs)
    limit = limit_page(cloud, 2, retry_after=3600, times=3)
    refusal = cloud.faults.add(
        "status", status=403, times=None, match=lambda record: record.query["page"] == ["6"]
    )
    cloud.remove_task(tasks[1700])
    eventually(lambda: bool(tasks_of(fs)) and limit.hits == 3)
    assert refusal.hits == 1


def waiting_readers() -> int:
    """Return how many threads of this process wait for a request."""

    def is_waiting(frame: FrameType | None) -> bool:
        while frame is not None and frame.f_code is not Waiter.result.__code__:
            frame = frame.f_back
        return frame is not None

    return sum(is_waiting(frame) for frame in sys._current_frames().values())


def test_readers_of_tasks_outside_the_filter(cloud: FakeCloud, tmp_path: Path) -> None:
    """F-6, F-22: Tasks that the filter leaves out stay found while many of them are read at once,
    and an update of the listing drops them from memory meanwhile."""
    cloud.add_task(project="listed", end_time=LONG_AGO)
    tasks = [cloud.add_task(project="other", end_time=LONG_AGO) for _ in range(8)]
    options = {**QUICK, "dir_cache_time": "1s", "project": "listed"}
    with in_process(cloud, tmp_path, options) as fs, ThreadPoolExecutor(len(tasks)) as readers:
        for task in tasks:
            fs.read(f"{task}/info.json")
        time.sleep(1.1)  # the listing and the records expire
        cloud.faults.add("stall", match=lambda record: "project" in record.query, times=None)
        reads = [readers.submit(fs.read, f"{task}/info.json") for task in tasks]
        eventually(lambda: waiting_readers() == len(tasks))  # all of them for one update
        cloud.faults.clear()
        assert [json.loads(read.result(30))["task_id"] for read in reads] == tasks


@pytest.mark.parametrize(
    "options",
    [{"status": "computation-started"}, {"project": "old"}, {"project": "old", "last": "60"}],
    ids=lambda options: " ".join(options),
)
@pytest.mark.parametrize("is_later", [False, True], ids=["live", "later"])
def test_another_mount_with_a_filter(
    cloud: FakeCloud, tmp_path: Path, options: dict[str, str], is_later: bool
) -> None:
    """F-27, F-15: Many tasks that a filtered mount no longer lists are not saved any more. Neither
    a live nor a later mount of the account shows a listing without them."""
    moved = []
    for number in range(2100):
        is_moved = 1000 <= number < 1040
        status, project = ("computation-started", "old") if is_moved else ("success", "p")
        task = cloud.add_task(status=status, project=project, create_time=created(number))
        moved += [task] * is_moved
    with contextlib.ExitStack() as mounts:
        fs = mounts.enter_context(in_process(cloud, tmp_path, LASTING))
        assert shows(fs, cloud)
        if is_later:
            mounts.close()
        for task in moved:
            cloud.set_status(task, "success")
            cloud.account.add_to_project("new", cloud.account.get(task))
        with in_process(cloud, tmp_path, {**QUICK, **options}) as other:
            assert tasks_of(other) == []
        # One of the other pages is late, so that the names show what waits for it.
        cloud.faults.add("stall", seconds=1, match=lambda r: r.query.get("page") == ["3"])
        if is_later:
            fs = mounts.enter_context(in_process(cloud, tmp_path, LASTING))
        assert shows(fs, cloud)


def test_a_task_that_joins_a_long_listing_of_a_status(account: FakeCloud, tmp_path: Path) -> None:
    """F-27: A task that joins the listing of a status is looked for in the background."""
    task = account.add_task(status="computation-started", create_time=created(10))
    with in_process(account, tmp_path, {**QUICK, "status": "success"}) as fs:
        before = tasks_of(fs)
        account.set_status(task, "success")
        late = account.faults.add("stall", match=lambda r: r.query.get("page") == ["3"], times=None)
        eventually(lambda: tasks_of(fs) == before and late.hits > 0)
        account.faults.clear()
        eventually(lambda: task in tasks_of(fs))


def test_the_newest_tasks_beside_a_mount_with_a_filter(account: FakeCloud, tmp_path: Path) -> None:
    """F-27, F-18: Many of the newest tasks that another mount has removed cost one request."""
    tasks = [account.add_task(status="computation-started") for _ in range(20)]
    with in_process(account, tmp_path, LASTING) as fs:
        assert shows(fs, account)
        for task in tasks:
            account.set_status(task, "success")
        options = {**QUICK, "status": "computation-started"}
        with in_process(account, tmp_path, options) as other:
            assert tasks_of(other) == []
        account.clear_requests()
        assert shows(fs, account)
        assert len(account.requests) == 1

"""`taskfs.tasks.task_cache`: how old its tasks are, and how many requests they cost."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from taskfs.cache.disk_cache import DiskCache
from taskfs.errors import Interrupted, NotFound, Unavailable
from taskfs.model import TaskStatus
from taskfs.remote.task_json import parse_task
from taskfs.support.interruptible_wait import Waiter
from taskfs.tasks.finished_tasks import FinishedTaskStore
from taskfs.tasks.task_cache import TaskCache
from taskfs.tasks.task_filter import TaskFilter
from tests.unit.fakes import Clock, FakeAPI, names, task_of

ID = "abcdefghijklmnopqrstuvwx"  # one letter less than an id
POOL = ThreadPoolExecutor(2)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api() -> FakeAPI:
    api = FakeAPI()
    api.add(task_of(f"{ID}2"), task_of(f"{ID}1", "success"), task_of(f"{ID}0", "failed"))
    return api


def records_of(
    api: FakeAPI, clock: Callable[[], float], scope: TaskFilter | None = None
) -> TaskCache:
    return TaskCache(api, POOL, Waiter(), listing_ttl_s=9, status_ttl_s=2, scope=scope, clock=clock)


@pytest.fixture
def records(api: FakeAPI, clock: Clock) -> TaskCache:
    return records_of(api, clock)


def test_a_listing_is_asked_for_once_in_its_time(
    records: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """F-1: A listing is asked for once in 10 s, of which 1 s is the kernel's."""
    for _ in range(6):
        assert names(records.listing()) == [f"{ID}2", f"{ID}1", f"{ID}0"]
        clock.tick(2.2)
    assert api.calls == ["list", "list"]


def test_a_listing_fills_all_records(records: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-7: One listing fills the records of all its tasks."""
    records.listing()
    assert [records.get(name).task.status for name in api.tasks] == [
        "started",
        "success",
        "failed",
    ]
    assert [records.get_full(name).task.id for name in api.tasks] == list(api.tasks)
    assert api.calls == ["list"]


def test_unfinished_tasks_are_refreshed_together(
    records: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """F-7, F-2: Unfinished tasks are refreshed together."""
    api.add(*(task_of(f"{ID}{letter}") for letter in "abc"))
    records.listing()
    clock.tick(2.1)
    for name in api.tasks:
        records.get(name)
    assert api.calls == ["list", "active"]
    clock.tick(1.9)
    records.get(f"{ID}a")
    assert api.calls == ["list", "active"]


def test_a_task_that_ended_is_asked_for_by_itself(
    records: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """F-2: A task that left the unfinished ones is asked for by itself."""
    records.listing()
    api.change(f"{ID}2", status="success", end_ns=77)
    clock.tick(2.1)
    known = records.get(f"{ID}2")
    assert (known.task.status, known.task.end_ns) == ("success", 77)
    assert known.status_seen_ns is not None
    assert api.calls == ["list", "active", f"get {ID}2"]
    clock.tick(60)
    assert records.get(f"{ID}2").task.status == "success"
    assert len(api.calls) == 3


def test_many_that_ended_at_once_make_a_listing(api: FakeAPI, clock: Clock) -> None:
    """F-7: Many tasks that ended at once cost one listing."""
    tasks = [f"{ID}{chr(97 + number)}" for number in range(20)]
    api.add(*map(task_of, tasks))
    records = records_of(api, clock)
    records.listing()
    for name in tasks:
        api.change(name, status="success")
    clock.tick(2.1)
    assert {records.get(name).task.status for name in tasks} == {"success"}
    assert api.calls == ["list", "active", "list"]


def test_a_removed_task_is_not_found(records: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """K-4, X-1: A removed task is not found."""
    records.listing()
    del api.tasks[f"{ID}2"]
    clock.tick(2.1)
    with pytest.raises(NotFound):
        records.get(f"{ID}2")
    assert f"{ID}2" not in names(records.listing())
    clock.tick(8)
    del api.tasks[f"{ID}1"]
    assert names(records.listing()) == [f"{ID}0"]
    with pytest.raises(NotFound):
        records.get(f"{ID}1")


def test_an_unknown_name_is_asked_for_if_it_can_be_one(
    records: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """F-6, N-19: An unknown name is asked for only if it can be an id."""
    records.listing()
    api.add(task_of(f"{ID}y"))
    assert records.get(f"{ID}y").task.status == "started"
    assert names(records.listing()) == [f"{ID}2", f"{ID}1", f"{ID}0"]
    for name in ("HEAD", "desktop.ini", f"{ID}22", ID, f"{ID}.", "", f"{ID}/", "ä" * 25, "x" * 300):
        with pytest.raises(NotFound):
            records.get(name)
    assert api.calls == ["list", f"get {ID}y"]
    for _ in range(3):
        with pytest.raises(NotFound):
            records.get(f"{ID}9")
    assert api.calls[2:] == [f"get {ID}9"]
    clock.tick(2.1)
    api.add(task_of(f"{ID}9"))
    assert records.get(f"{ID}9").task.id == f"{ID}9"


def test_without_a_listing_a_name_brings_it(records: TaskCache, api: FakeAPI) -> None:
    """F-6, F-7: Without a listing, a name brings one page of it."""
    assert records.get(f"{ID}1").task.status == "success"
    assert api.calls == ["list"]


def test_a_failure_is_never_kept(records: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-15: A failure is never cached."""
    api.failure = Unavailable("no answer")
    for ask in (records.listing, lambda: records.get(f"{ID}2"), lambda: records.get(f"{ID}9")):
        with pytest.raises(Unavailable):
            ask()
    api.failure = None
    assert len(records.listing()) == 3
    api.failure = Unavailable("no answer")
    clock.tick(10)
    with pytest.raises(Unavailable):
        records.listing()
    with pytest.raises(Unavailable):
        records.get(f"{ID}2")
    assert records.get(f"{ID}1").task.status == "success"  # which is final
    api.failure = None
    assert records.get(f"{ID}2").task.status == "started"


def test_a_finished_record_is_shown_as_it_was_while_the_api_is_away(
    records: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """O-12, F-5: A finished record is shown as it was while the API is away."""
    records.listing()
    api.change(f"{ID}1", error_detail="new")
    clock.tick(9.5)
    api.failure = Unavailable("no answer")
    assert records.get_full(f"{ID}1").task.error_detail == ""
    tries = len(api.calls)
    assert records.get_full(f"{ID}1").task.error_detail == ""
    assert len(api.calls) == tries  # it is not asked for again and again
    api.failure = None
    clock.tick(5.1)
    assert records.get_full(f"{ID}1").task.error_detail == "new"


def test_an_answer_to_an_earlier_question_does_not_count(
    records: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """K-12: An answer to a request from before the kill does not count."""
    records.listing()
    clock.tick(3)

    def meanwhile(call: str) -> None:
        if call == "active":  # its answer is made, and on its way
            clock.tick(0.1)
            records.note_status(TaskStatus(f"{ID}2", "pending-kill", False))

    api.before = meanwhile
    assert records.get(f"{ID}2").task.status == "pending-kill"
    api.before = lambda call: None
    assert records.get(f"{ID}2").task.status == "pending-kill"


def test_a_finished_task_does_not_come_back(records: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-4: A finished task does not become unfinished again."""
    records.listing()
    api.change(f"{ID}1", status="started")
    clock.tick(10)
    assert [task.status for task in records.listing()] == ["started", "success", "failed"]


def test_the_version_changes_when_groups_do(records: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """N-10: The views' version changes when a group does."""
    versions = []
    for change in (
        {},
        {"error_detail": "nothing that groups"},
        {"project": "other"},
        {"simulator": "other"},
        {"status": "computation-started"},
        {"start_ns": 99},
    ):
        api.change(f"{ID}2", **change)
        clock.tick(10)
        records.listing()
        versions.append(records.version)
    assert versions[0] == versions[1]
    assert len(set(versions)) == 5
    api.add(task_of(f"{ID}n"))
    clock.tick(10)
    records.listing()
    assert records.version not in versions


def test_what_was_seen_to_change_is_dated(records: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """A-9: A change that this mount saw has its time."""
    records.listing()
    assert records.get(f"{ID}2").status_seen_ns is None
    api.change(f"{ID}2", error_detail="x")
    clock.tick(2.1)
    known = records.get(f"{ID}2")
    assert known.status_seen_ns is None
    assert known.record_seen_ns and abs(known.record_seen_ns - time.time_ns()) < 60 * 10**9
    api.change(f"{ID}2", status="computation-started")
    clock.tick(2.1)
    known = records.get(f"{ID}2")
    assert known.status_seen_ns
    clock.tick(2.1)
    assert records.get(f"{ID}2").status_seen_ns == known.status_seen_ns


def test_forget(records: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """N-21: `forget` drops what is cached."""
    records.listing()
    with pytest.raises(NotFound):
        records.get(f"{ID}9")
    api.change(f"{ID}2", status="computation-started")
    api.add(task_of(f"{ID}9"))
    records.forget()
    assert records.get(f"{ID}2").task.status == "computation-started"
    assert records.get(f"{ID}9").task.id == f"{ID}9"
    assert names(records.listing())[0] == f"{ID}9"


def test_a_scope(api: FakeAPI, clock: Clock) -> None:
    """C-6: `--project`, `--status` (repeatable) and `--last` say which tasks are listed."""
    for number, status in enumerate(("failed", "success", "failed", "started"), 1):
        api.add(task_of(f"{ID}{number}", status, project="p", create_ns=number))
    both = records_of(api, clock, TaskFilter("p", ("failed", "success"), 2))
    assert names(both.listing()) == [f"{ID}3", f"{ID}2"]
    assert api.calls == ["list failed", "list success"]
    one = records_of(api, clock, TaskFilter(None, ("started",), None))
    assert names(one.listing()) == [f"{ID}4"]
    last = records_of(api, clock, TaskFilter(last=1))
    assert names(last.listing()) == [f"{ID}4"]
    assert last.get(f"{ID}1").task.status == "failed"  # by its name all the same


def test_many_callers_make_one_request() -> None:
    """F-7: Many callers at once make one request."""
    api, asked, go_on = FakeAPI(), threading.Semaphore(0), threading.Event()
    api.add(task_of(f"{ID}1"))

    def wait(call: str) -> None:
        asked.release()
        assert go_on.wait(20)

    api.before = wait
    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(10) as callers:
        records = TaskCache(api, pool, Waiter(), listing_ttl_s=9, status_ttl_s=2)
        futures = [callers.submit(records.listing) for _ in range(10)]
        assert asked.acquire(timeout=20)
        time.sleep(0.1)
        go_on.set()
        assert all(names(future.result(20)) == [f"{ID}1"] for future in futures)
    assert api.calls == ["list"]


def test_an_interrupted_caller_leaves_and_the_request_goes_on() -> None:
    """K-13: An interrupted caller leaves, and the request goes on."""
    api, go_on = FakeAPI(), threading.Event()
    api.add(task_of(f"{ID}1"))

    def wait(call: str) -> None:
        assert go_on.wait(20)

    api.before = wait
    interrupted = threading.Event()
    interrupted.set()
    with ThreadPoolExecutor(2) as pool:
        waiter = Waiter(interrupted.is_set)
        records = TaskCache(api, pool, waiter, listing_ttl_s=9, status_ttl_s=2)
        with pytest.raises(Interrupted):
            records.listing()
        go_on.set()
    interrupted.clear()
    assert names(records.listing()) == [f"{ID}1"]
    assert api.calls == ["list"]


def test_what_the_listing_does_not_show_is_found_by_its_name_for_good(
    api: FakeAPI, clock: Clock
) -> None:
    """F-6, F-14: A task that the listing leaves out stays found by its name."""
    records = records_of(api, clock, TaskFilter(last=1))
    outside = f"{ID}1"
    assert records.get_full(outside).task.status == "success"
    for _ in range(3):
        clock.tick(9.5)
        assert records.get_full(outside).task.id == outside
    del api.tasks[outside]
    clock.tick(9.5)
    with pytest.raises(NotFound):
        records.get_full(outside)


def test_many_unfinished_tasks_of_another_project_stay_found(api: FakeAPI, clock: Clock) -> None:
    """F-14, F-6: Many unfinished tasks of another project stay found."""
    records = records_of(api, clock, TaskFilter(project="mine"))
    others = [f"{ID}{chr(97 + number)}" for number in range(20)]
    api.add(*(task_of(name, project="theirs") for name in others))
    for _ in range(3):
        assert {records.get(name).task.status for name in others} == {"started"}
        clock.tick(2.1)


def test_what_an_earlier_mount_knew_counts_only_while_the_api_is_away(
    api: FakeAPI, clock: Clock, tmp_path: Path
) -> None:
    """O-12, O-15: What an earlier mount knew counts only while the API is away."""
    done = parse_task(
        b'{"task_id": "%s9", "status": "success", "is_terminated": true}' % ID.encode()
    )
    ledger = FinishedTaskStore(DiskCache(tmp_path, 1 << 30), "account", "last")
    ledger.keep([done])
    ledger.close()  # so that the 404 below does not take it from the disk
    waiter = Waiter()
    records = TaskCache(
        api, POOL, waiter, listing_ttl_s=9, status_ttl_s=2, finished_tasks=ledger, clock=clock
    )
    with pytest.raises(NotFound):  # the API is there, and does not know it
        records.get(done.id)
    assert api.calls == ["list", f"get {done.id}"]
    clock.tick(2.1)
    api.failure = Unavailable("away")
    assert records.get(done.id).task == done
    assert records.get_full(done.id).task == done
    asked = len(api.calls)
    for _ in range(3):
        assert records.get_full(done.id).task == done
    assert len(api.calls) == asked
    with pytest.raises(Unavailable):
        records.get(f"{ID}8")
    api.failure = None
    clock.tick(9.1)
    records.listing()
    with pytest.raises(NotFound):
        records.get(done.id)

"""`taskfs.tasks.task_cache`: how old its tasks are, and how many requests they cost."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from taskfs.errors import Interrupted, NotFound, Unavailable
from taskfs.model import TaskStatus
from taskfs.remote.task_json import parse_task
from taskfs.support.interruptible_wait import Waiter
from taskfs.tasks.accounts import open_database
from taskfs.tasks.task_cache import TaskCache
from taskfs.tasks.task_filter import TaskFilter
from tests.unit.fakes import Clock, FakeAPI, task_cache_of, task_of

ID = "abcdefghijklmnopqrstuvwx"  # one character shorter than an id


@pytest.fixture
def api() -> FakeAPI:
    api = FakeAPI()
    api.add(task_of(f"{ID}2"), task_of(f"{ID}1", "success"), task_of(f"{ID}0", "failed"))
    return api


@pytest.fixture
def cache(api: FakeAPI, clock: Clock) -> TaskCache:
    return task_cache_of(api, clock=clock)


def test_a_listing_is_loaded_once_per_ttl(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-1: A listing is loaded once in 10 s, of which 1 s is the kernel's."""
    for _ in range(6):
        assert list(cache.ids()) == [f"{ID}2", f"{ID}1", f"{ID}0"]
        clock.tick(2.2)
    assert api.calls == ["list", "list"]


def test_a_listing_fills_all_records(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-7: One listing fills the records of all its tasks."""
    cache.listing()
    assert [cache.get(name).task.status for name in api.tasks] == [
        "started",
        "success",
        "failed",
    ]
    assert [cache.get_full(name).task.id for name in api.tasks] == list(api.tasks)
    assert api.calls == ["list"]


def test_unfinished_tasks_are_updated_together(
    cache: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """F-7, F-2: Unfinished tasks are updated together."""
    api.add(*(task_of(f"{ID}{letter}") for letter in "abc"))
    cache.listing()
    clock.tick(2.1)
    for name in api.tasks:
        cache.get(name)
    assert api.calls == ["list", "active"]
    clock.tick(1.9)
    cache.get(f"{ID}a")
    assert api.calls == ["list", "active"]


def test_a_task_that_ended_is_requested_alone(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-2: A task that left the unfinished ones is requested alone."""
    cache.listing()
    api.change(f"{ID}2", status="success", end_ns=77)
    clock.tick(2.1)
    cached = cache.get(f"{ID}2")
    assert (cached.task.status, cached.task.end_ns) == ("success", 77)
    assert cached.seen.status_ns is not None
    assert api.calls == ["list", "active", f"get {ID}2"]
    clock.tick(60)
    assert cache.get(f"{ID}2").task.status == "success"
    assert len(api.calls) == 3


def test_if_many_tasks_end_at_once_a_listing_is_loaded(api: FakeAPI, clock: Clock) -> None:
    """F-7: Many tasks that ended at once cost one listing."""
    tasks = [f"{ID}{chr(97 + number)}" for number in range(20)]
    api.add(*map(task_of, tasks))
    cache = task_cache_of(api, clock=clock)
    cache.listing()
    for name in tasks:
        api.change(name, status="success")
    clock.tick(2.1)
    assert {cache.get(name).task.status for name in tasks} == {"success"}
    assert api.calls == ["list", "active", "list"]


def test_a_removed_task_is_not_found(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """K-4, X-1: A removed task is not found."""
    cache.listing()
    del api.tasks[f"{ID}2"]
    clock.tick(2.1)
    with pytest.raises(NotFound):
        cache.get(f"{ID}2")
    assert f"{ID}2" not in list(cache.ids())
    clock.tick(8)
    del api.tasks[f"{ID}1"]
    assert list(cache.ids()) == [f"{ID}0"]
    with pytest.raises(NotFound):
        cache.get(f"{ID}1")


def test_an_unknown_name_is_requested_if_it_is_a_valid_id(
    cache: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """F-6, N-19: An unknown name is requested only if it can be an id."""
    cache.listing()
    api.add(task_of(f"{ID}y"))
    assert cache.get(f"{ID}y").task.status == "started"
    assert list(cache.ids()) == [f"{ID}2", f"{ID}1", f"{ID}0"]
    for name in ("HEAD", "desktop.ini", f"{ID}22", ID, f"{ID}.", "", f"{ID}/", "ä" * 25, "x" * 300):
        with pytest.raises(NotFound):
            cache.get(name)
    assert api.calls == ["list", f"get {ID}y"]
    for _ in range(3):
        with pytest.raises(NotFound):
            cache.get(f"{ID}9")
    assert api.calls[2:] == [f"get {ID}9"]
    clock.tick(2.1)
    api.add(task_of(f"{ID}9"))
    assert cache.get(f"{ID}9").task.id == f"{ID}9"


def test_the_first_name_loads_the_listing(cache: TaskCache, api: FakeAPI) -> None:
    """F-6, F-7: Without a listing, a name loads one page of it."""
    assert cache.get(f"{ID}1").task.status == "success"
    assert api.calls == ["list"]


def test_a_failure_is_never_cached(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-15: A failure is never cached."""
    api.failure = Unavailable("no answer")
    for load in (cache.listing, lambda: cache.get(f"{ID}2"), lambda: cache.get(f"{ID}9")):
        with pytest.raises(Unavailable):
            load()
    api.failure = None
    assert len(list(cache.listing())) == 3
    api.failure = Unavailable("no answer")
    clock.tick(10)
    with pytest.raises(Unavailable):
        cache.listing()
    with pytest.raises(Unavailable):
        cache.get(f"{ID}2")
    assert cache.get(f"{ID}1").task.status == "success"  # a terminal status is final
    api.failure = None
    assert cache.get(f"{ID}2").task.status == "started"


def test_while_the_api_fails_a_finished_task_keeps_its_last_record(
    cache: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """O-12, F-5: While the API fails a finished task keeps its last record."""
    cache.listing()
    api.change(f"{ID}1", error_detail="new")
    clock.tick(9.5)
    api.failure = Unavailable("no answer")
    assert cache.get_full(f"{ID}1").task.error_detail == ""
    tries = len(api.calls)
    assert cache.get_full(f"{ID}1").task.error_detail == ""
    assert len(api.calls) == tries  # no further request is sent
    api.failure = None
    clock.tick(5.1)
    assert cache.get_full(f"{ID}1").task.error_detail == "new"


def test_a_response_to_an_older_request_is_ignored(
    cache: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """K-12: A response to a request from before the kill is ignored."""
    cache.listing()
    clock.tick(3)

    def meanwhile(call: str) -> None:
        if call == "active":  # the response is made, but not returned yet
            clock.tick(0.1)
            cache.note_status(TaskStatus(f"{ID}2", "pending-kill", False))

    api.before = meanwhile
    assert cache.get(f"{ID}2").task.status == "pending-kill"
    api.before = lambda call: None
    assert cache.get(f"{ID}2").task.status == "pending-kill"


def test_a_finished_task_does_not_come_back(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-4: A finished task does not become unfinished again."""
    cache.listing()
    api.change(f"{ID}1", status="started")
    clock.tick(10)
    assert [task.status for task in cache.listing()] == ["started", "success", "failed"]


def test_the_version_changes_when_groups_do(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
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
        cache.listing()
        versions.append(cache.version)
    assert versions[0] == versions[1]
    assert len(set(versions)) == 5
    api.add(task_of(f"{ID}n"))
    clock.tick(10)
    cache.listing()
    assert cache.version not in versions


def test_observed_changes_are_dated(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """A-9: A change that this mount saw has its time."""
    cache.listing()
    assert cache.get(f"{ID}2").seen.status_ns is None
    api.change(f"{ID}2", error_detail="x")
    clock.tick(2.1)
    cached = cache.get(f"{ID}2")
    assert cached.seen.status_ns is None
    assert cached.seen.record_ns and abs(cached.seen.record_ns - time.time_ns()) < 60 * 10**9
    api.change(f"{ID}2", status="computation-started")
    clock.tick(2.1)
    cached = cache.get(f"{ID}2")
    assert cached.seen.status_ns
    clock.tick(2.1)
    assert cache.get(f"{ID}2").seen.status_ns == cached.seen.status_ns


def test_forget(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """N-21: `forget` drops all records and statuses."""
    cache.listing()
    with pytest.raises(NotFound):
        cache.get(f"{ID}9")
    api.change(f"{ID}2", status="computation-started")
    api.add(task_of(f"{ID}9"))
    cache.forget()
    assert cache.get(f"{ID}2").task.status == "computation-started"
    assert cache.get(f"{ID}9").task.id == f"{ID}9"
    assert cache.ids()[0] == f"{ID}9"


def test_a_task_filter(api: FakeAPI, clock: Clock) -> None:
    """C-6: `--project`, `--status` (repeatable) and `--last` say which tasks are listed."""
    for number, status in enumerate(("failed", "success", "failed", "started"), 1):
        api.add(task_of(f"{ID}{number}", status, project="p", create_ns=number))
    both = task_cache_of(api, clock=clock, task_filter=TaskFilter("p", ("failed", "success"), 2))
    assert list(both.ids()) == [f"{ID}3", f"{ID}2"]
    assert api.calls == ["list failed", "list success"]
    one = task_cache_of(api, clock=clock, task_filter=TaskFilter(None, ("started",), None))
    assert list(one.ids()) == [f"{ID}4"]
    last = task_cache_of(api, clock=clock, task_filter=TaskFilter(last=1))
    assert list(last.ids()) == [f"{ID}4"]
    assert last.get(f"{ID}1").task.status == "failed"  # found by its name


def test_many_callers_make_one_request() -> None:
    """F-7: Many callers at once make one request."""
    api, arrived, go_on = FakeAPI(), threading.Semaphore(0), threading.Event()
    api.add(task_of(f"{ID}1"))

    def wait(call: str) -> None:
        arrived.release()
        assert go_on.wait(60)

    api.before = wait
    with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(10) as callers:
        cache = task_cache_of(api, pool=pool)
        futures = [callers.submit(cache.ids) for _ in range(10)]
        assert arrived.acquire(timeout=60)
        time.sleep(0.1)
        go_on.set()
        assert all(list(future.result(60)) == [f"{ID}1"] for future in futures)
    assert api.calls == ["list"]


def test_the_request_of_an_interrupted_caller_goes_on() -> None:
    """K-13: An interrupted caller leaves, and its request goes on."""
    api, go_on = FakeAPI(), threading.Event()
    api.add(task_of(f"{ID}1"))

    def wait(call: str) -> None:
        assert go_on.wait(60)

    api.before = wait
    interrupted = threading.Event()
    interrupted.set()
    with ThreadPoolExecutor(2) as pool:
        waiter = Waiter(interrupted.is_set)
        cache = task_cache_of(api, pool=pool, waiter=waiter)
        with pytest.raises(Interrupted):
            cache.listing()
        go_on.set()
    interrupted.clear()
    assert list(cache.ids()) == [f"{ID}1"]
    assert api.calls == ["list"]


def test_a_task_outside_the_filter_stays_found_by_its_name(api: FakeAPI, clock: Clock) -> None:
    """F-6, F-14: A task outside the filter stays found by its name."""
    cache = task_cache_of(api, clock=clock, task_filter=TaskFilter(last=1))
    outside = f"{ID}1"
    assert cache.get_full(outside).task.status == "success"
    for _ in range(3):
        clock.tick(9.5)
        assert cache.get_full(outside).task.id == outside
    del api.tasks[outside]
    clock.tick(9.5)
    with pytest.raises(NotFound):
        cache.get_full(outside)


def test_many_unfinished_tasks_of_another_project_stay_found(api: FakeAPI, clock: Clock) -> None:
    """F-14, F-6: Many unfinished tasks of another project stay found."""
    cache = task_cache_of(api, clock=clock, task_filter=TaskFilter(project="mine"))
    others = [f"{ID}{chr(97 + number)}" for number in range(20)]
    api.add(*(task_of(name, project="theirs") for name in others))
    for _ in range(3):
        assert {cache.get(name).task.status for name in others} == {"started"}
        clock.tick(2.1)


def test_tasks_of_an_earlier_mount_are_used_only_while_the_api_fails(
    api: FakeAPI, clock: Clock, tmp_path: Path
) -> None:
    """O-12, O-15: Tasks of an earlier mount are used only while the API fails."""
    done = parse_task(
        b'{"task_id": "%s9", "status": "success", "is_terminated": true}' % ID.encode()
    )
    database = open_database(tmp_path, "https://api.example", "key")
    database.put([done])
    cache = task_cache_of(api, database=database, clock=clock)
    with pytest.raises(NotFound):  # the API answers that there is no such task
        cache.get(done.id)
    assert api.calls == ["list", f"get {done.id}"]
    clock.tick(2.1)
    database.put([done])  # by another mount, before the API knew that the task is gone
    api.failure = Unavailable("away")
    assert cache.get(done.id).task == done
    assert cache.get_full(done.id).task == done
    sent = len(api.calls)
    for _ in range(3):
        assert cache.get_full(done.id).task == done
    assert len(api.calls) == sent
    with pytest.raises(Unavailable):
        cache.get(f"{ID}8")
    api.failure = None
    clock.tick(9.1)
    cache.listing()
    with pytest.raises(NotFound):
        cache.get(done.id)

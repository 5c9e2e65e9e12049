"""`taskfs.tasks.account_listing`: the requests of an update of a large account."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from taskfs.errors import BadResponse, Interrupted, NotFound, Unavailable
from taskfs.model import Task, TaskPage
from taskfs.support.interruptible_wait import Waiter
from taskfs.tasks.accounts import open_database
from taskfs.tasks.known_tasks import KnownTasks
from taskfs.tasks.packed_page import PackedPage
from taskfs.tasks.selection import Scope
from taskfs.tasks.task_cache import TaskCache
from taskfs.tasks.task_filter import TaskFilter
from taskfs.tasks.task_groups import TaskGroups
from taskfs.tasks.whole_listing import WholeListing
from tests.mounts import eventually
from tests.threads import no_new_threads
from tests.unit.fakes import Clock, FakeAPI, await_pool, task_cache_of, task_of

URL = "https://api.example"
COUNT = 2600  # tasks: more than an update reads within itself


def name_of(number: int) -> str:
    return f"task{number:021}"


def numbered(number: int, status: str = "success", **fields: Any) -> Task:
    return task_of(name_of(number), status, **{"create_ns": number + 1, **fields})


@pytest.fixture
def api() -> FakeAPI:
    """An account of finished tasks, of which the oldest and the newest three are unfinished."""
    api = FakeAPI()
    unfinished = {0, *range(COUNT - 3, COUNT)}
    api.add(
        *(
            numbered(number, "started" if number in unfinished else "success")
            for number in reversed(range(COUNT))
        )
    )
    return api


@pytest.fixture
def cache(api: FakeAPI, clock: Clock) -> TaskCache:
    return task_cache_of(api, clock=clock)


def new_calls(api: FakeAPI) -> list[str]:
    """Return the calls since the last call of this function, the pages sorted."""
    calls, api.calls = api.calls, []
    return sorted(calls)


def await_quiet(api: FakeAPI) -> None:
    """Wait until no listing is read and no request was sent for a moment."""
    count = -1
    while count != len(api.calls) or any(t.name == "taskfs-listing" for t in threading.enumerate()):
        count = len(api.calls)
        await_pool()
        time.sleep(0.1)


def test_an_update_requests_what_changed(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-18, F-1: An update costs the newest page and the unfinished tasks, and shows new ones."""
    assert cache.ids() == tuple(api.tasks)
    assert new_calls(api) == ["list", *(f"list page {n}" for n in range(2, 7))]
    clock.tick(10)
    api.add(numbered(COUNT))
    assert cache.ids() == tuple(api.tasks)
    assert new_calls(api) == ["active", "list"]
    clock.tick(10)
    api.add(*(numbered(number) for number in reversed(range(COUNT + 1, COUNT + 251))))
    assert cache.ids() == tuple(api.tasks)
    assert new_calls(api) == ["active", "list", "list page 2", "list page 3"]


def test_ended_tasks_are_shown_by_the_next_update(
    cache: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """F-18, F-2: A task that ended costs one request of its own."""
    cache.ids()
    new_calls(api)
    api.change(name_of(0), status="failed")
    clock.tick(2.1)
    assert cache.get(name_of(0)).task.status == "failed"
    assert new_calls(api) == ["active", f"get {name_of(0)}"]


def test_many_ended_tasks_cost_the_pages_that_show_them(api: FakeAPI, clock: Clock) -> None:
    """F-18, F-2: Tasks that ended together cost one request for each page."""
    for number in range(600, 700):
        api.change(name_of(number), status="started", is_terminated=False)
    cache = task_cache_of(api, clock=clock)
    cache.ids()
    new_calls(api)
    for number in range(600, 700):
        api.change(name_of(number), status="success")
    clock.tick(2.1)
    assert {cache.get(name_of(number)).task.status for number in range(600, 700)} == {"success"}
    assert new_calls(api) == ["active", "list page 4"]


def test_a_removed_task_leaves_the_listing(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-18: Where the sums differ, pages in the background show which task is gone."""
    cache.ids()
    new_calls(api)
    del api.tasks[name_of(1000)]
    clock.tick(10)
    cache.ids()
    await_quiet(api)
    assert new_calls(api) == ["active", "list", "list", *(f"list page {n}" for n in (2, 3, 4, 5))]
    assert cache.ids() == tuple(api.tasks)
    with pytest.raises(NotFound):
        cache.get(name_of(1000))


def test_other_differences_cost_all_pages(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-18: Where removed tasks do not explain the sums, all pages are read again."""
    cache.ids()
    new_calls(api)
    tasks = list(api.tasks.items())
    api.tasks = dict([*tasks[:1400], ("late", task_of("late", create_ns=1200)), *tasks[1400:]])
    clock.tick(10)
    cache.ids()
    await_quiet(api)
    assert new_calls(api) == ["active", "list", "list", *(f"list page {n}" for n in range(2, 7))]
    clock.tick(10)
    assert cache.ids() == tuple(api.tasks)


def test_equal_sums_hide_no_removal(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-18: One task removed and another added leave `total_size` as it was."""
    cache.ids()
    del api.tasks[name_of(1000)]
    api.add(numbered(COUNT))
    clock.tick(10)
    assert cache.ids()[0] == name_of(COUNT)
    await_quiet(api)
    assert cache.ids() == tuple(api.tasks)


def test_a_small_listing_is_read_again_at_once(api: FakeAPI, clock: Clock) -> None:
    """F-1, F-18: In a listing of at most 2000 tasks a removed one is gone after the update."""
    api.tasks = dict(list(api.tasks.items())[:1200])
    cache = task_cache_of(api, clock=clock)
    cache.ids()
    del api.tasks[name_of(COUNT - 900)]
    clock.tick(10)
    assert cache.ids() == tuple(api.tasks)


def test_equal_creation_times(api: FakeAPI, clock: Clock) -> None:
    """F-24, F-18: Equal creation times neither hide a task nor change the order."""
    api.tasks = {}
    api.add(*(numbered(number, create_ns=7) for number in reversed(range(1700))))
    cache = task_cache_of(api, clock=clock)
    assert cache.ids() == tuple(api.tasks)
    api.add(*(numbered(number, create_ns=7) for number in (1701, 1700)))
    clock.tick(10)
    assert cache.ids() == tuple(api.tasks)


def test_equal_creation_times_in_a_page_that_is_read_alone(api: FakeAPI, clock: Clock) -> None:
    """F-24: The order holds among the batches of a page that is not read with all others."""
    known = KnownTasks(open_database(None, URL, "key"), clock)
    whole = WholeListing(api, known, clock)
    page = PackedPage(1, 0.0)
    tasks = [numbered(number, create_ns=1) for number in range(5)]
    page.add(tasks[:2])
    page.add(tasks[2:])
    assert whole.store(page) == [task.id for task in tasks]
    assert known.database.ids(Scope().selection) == tuple(task.id for task in tasks)
    whole.close()


def test_pages_that_shift_while_they_are_read(api: FakeAPI, clock: Clock) -> None:
    """F-20, F-15: Tasks that come and go during the first listing neither hide nor double any."""
    added, removed = iter(range(COUNT, COUNT + 100)), iter(range(2000, 2003))
    lock = threading.Lock()

    def shift(call: str) -> None:
        with lock:
            if call in ("list page 2", "list page 4") and len(api.calls) < 20:
                api.add(numbered(next(added)))
            if call == "list page 3" and (number := next(removed, None)) is not None:
                del api.tasks[name_of(number)]

    api.before = shift
    cache = task_cache_of(api, clock=clock)
    cache.ids()
    api.before = lambda call: None
    clock.tick(10)
    cache.ids()
    await_quiet(api)
    assert cache.ids() == tuple(api.tasks)


def test_tasks_that_are_removed_in_each_pass_go_with_the_next_update(
    api: FakeAPI, clock: Clock
) -> None:
    """F-18, F-1: Where no pass over the pages was exact, tasks that were removed meanwhile are
    looked for."""
    removed, lock, is_new_pass = iter(range(2500, 2503)), threading.Lock(), False

    def remove(call: str) -> None:
        nonlocal is_new_pass
        with lock:
            if is_new_pass and call != "list" and (number := next(removed, None)) is not None:
                del api.tasks[name_of(number)]
            is_new_pass = call == "list"

    api.before = remove
    cache = task_cache_of(api, clock=clock)
    cache.ids()
    assert next(removed, None) is None
    clock.tick(10)
    cache.ids()
    await_quiet(api)
    assert cache.ids() == tuple(api.tasks)


def test_a_listing_in_use_is_updated_before_it_is_too_old(
    cache: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """F-26, F-1: The reader gets the known listing at once, the next reader the new one."""
    for _ in range(2):  # the second one begins the slow round
        cache.ids()
        await_quiet(api)
    new_calls(api)
    api.add(numbered(COUNT))
    clock.tick(6)
    cache.ids()
    await_quiet(api)
    assert new_calls(api) == []
    clock.tick(1)
    go_on = threading.Event()

    def wait(call: str) -> None:
        go_on.wait(60)

    api.before = wait
    assert name_of(COUNT) not in cache.ids()
    go_on.set()
    await_quiet(api)
    assert new_calls(api) == ["active", "list"]
    assert cache.ids()[0] == name_of(COUNT)


def test_a_mount_is_live_after_one_page(cache: TaskCache, api: FakeAPI) -> None:
    """F-19: One page makes a mount live, and a task by its name does not wait for the others."""
    go_on = threading.Event()

    def hold(call: str) -> None:
        if "page" in call:
            assert go_on.wait(60)

    api.before = hold
    assert len(cache.load_first_page()[0].tasks) == 500
    assert cache.get(name_of(COUNT - 1)).task.status == "started"
    assert cache.get(name_of(5)).task.status == "success"
    assert api.calls[0] == "list" and f"get {name_of(5)}" in api.calls
    go_on.set()
    assert cache.ids() == tuple(api.tasks)


def test_a_first_listing_is_never_shown_in_part(api: FakeAPI, clock: Clock) -> None:
    """F-20: Readers of the root wait for the whole listing, within the timeout; it goes on."""
    go_on, is_held = threading.Event(), threading.Event()

    def hold(call: str) -> None:
        if call == "list page 5":
            is_held.set()
            assert go_on.wait(60)

    api.before = hold
    cache = task_cache_of(api, clock=clock, timeout_s=0.3)
    with pytest.raises(Unavailable, match="is not whole yet"):
        cache.ids()
    assert is_held.wait(60)
    with pytest.raises(Unavailable, match="of 6 pages"):
        cache.ids()
    # Page 4 may be requested after page 5, because four threads request pages.
    eventually(lambda: cache.progress in {(3, 6), (4, 6)})
    go_on.set()
    await_quiet(api)
    assert cache.ids() == tuple(api.tasks)
    assert cache.progress == (0, 0)
    assert sorted(set(api.calls)) == sorted(api.calls)  # nothing was requested twice


def test_an_interrupted_reader_leaves_the_first_listing_alone(api: FakeAPI, clock: Clock) -> None:
    """K-13, F-20: Ctrl+C ends the reader, and the listing goes on."""
    go_on, interrupted = threading.Event(), threading.Event()

    def hold(call: str) -> None:
        if "page" in call:
            interrupted.set()
            assert go_on.wait(60)

    api.before = hold
    cache = task_cache_of(api, clock=clock, waiter=Waiter(interrupted.is_set))
    with pytest.raises(Interrupted):
        cache.ids()
    interrupted.clear()
    api.before = lambda call: None
    go_on.set()
    assert cache.ids() == tuple(api.tasks)
    assert len(api.calls) == 6


def test_a_failure_of_the_first_listing_is_not_kept(
    cache: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """F-15: A page that fails fails the readers that wait, and the next one asks again."""

    def fail(call: str) -> None:
        if call == "list page 3":
            raise Unavailable("no answer")

    api.before = fail
    with pytest.raises(Unavailable, match="no answer"):
        cache.ids()
    api.before = lambda call: None
    assert cache.ids() == tuple(api.tasks)


def test_a_listing_that_is_too_short_is_an_error(api: FakeAPI, clock: Clock) -> None:
    """F-17: Fewer tasks than announced are an error, after the pages were read again."""
    whole = api.list_page

    def short(number: int, per_page: int, **options: Any) -> TaskPage:
        page = whole(number, per_page, **options)
        return page._replace(total_size=page.total_size + 1)

    api.list_page = short  # type: ignore[method-assign]
    cache = task_cache_of(api, clock=clock)
    with pytest.raises(BadResponse, match="arrived"):
        cache.ids()
    assert len(api.calls) == 3 * 6


def stored_cache(api: FakeAPI, clock: Clock, folder: Path, **options: Any) -> TaskCache:
    """Return the cache of another mount, which shares the stored tasks."""
    return task_cache_of(api, clock=clock, database=open_database(folder, URL, "key"), **options)


def test_a_later_mount_asks_for_what_changed_since(
    api: FakeAPI, clock: Clock, tmp_path: Path
) -> None:
    """F-21: A later mount lists the stored tasks after one update."""
    first = stored_cache(api, clock, tmp_path)
    first.ids()
    first.close()
    new_calls(api)
    api.change(name_of(0), status="failed")
    api.add(numbered(COUNT, "started"))
    clock.tick(1e6)
    second = stored_cache(api, clock, tmp_path)
    second.load_first_page()
    assert second.ids() == tuple(api.tasks)
    assert second.get(name_of(0)).task.status == "failed"
    assert new_calls(api) == ["active", f"get {name_of(0)}", "list"]
    second.close()


def test_a_gap_is_never_shown(api: FakeAPI, clock: Clock, tmp_path: Path) -> None:
    """F-20, O-16: After a month without a mount, and a first one that was killed, all pages are
    read before the listing is shown."""
    first = stored_cache(api, clock, tmp_path)
    first.ids()
    first.close()
    api.add(*(numbered(number) for number in reversed(range(COUNT, COUNT + 6000))))

    def fail(call: str) -> None:
        if call == "list page 12":
            raise Unavailable("killed")

    api.before = fail
    second = stored_cache(api, clock, tmp_path)
    with pytest.raises(Unavailable):
        second.ids()
    second.close()
    api.before = lambda call: None
    third = stored_cache(api, clock, tmp_path)
    assert third.ids() == tuple(api.tasks)
    third.close()


def test_two_mounts_of_an_account(api: FakeAPI, clock: Clock, tmp_path: Path) -> None:
    """O-16, F-18: A removal that one mount has noticed costs the other no whole listing."""
    one, two = (stored_cache(api, clock, tmp_path) for _ in range(2))
    assert one.ids() == two.ids() == tuple(api.tasks)
    assert two.get(name_of(1000)).task.status == "success"
    del api.tasks[name_of(1000)]
    clock.tick(10)
    one.ids()
    await_quiet(api)
    new_calls(api)
    assert two.ids() == tuple(api.tasks)
    assert new_calls(api) == ["active", "list"]
    with pytest.raises(NotFound):
        two.get(name_of(1000))
    one.close()
    two.close()


def test_a_database_that_is_lost_under_a_mount(api: FakeAPI, clock: Clock, tmp_path: Path) -> None:
    """O-17, F-15: A query that meets the loss shows neither an empty root nor an empty view."""
    cache = stored_cache(api, clock, tmp_path)
    groups = TaskGroups(cache)
    (path,) = (tmp_path / "tasks").glob("*.db")
    queries: list[Callable[[], object]] = [
        lambda: len(cache.ids()),
        lambda: len(groups.ids("status", ["success", "started"])),
        lambda: groups.changed_ns("status", ["success"], name_of(1000)),
        lambda: len(groups.values("status")),
    ]
    for query in queries:
        cache.ids()
        api.add(numbered(len(api.tasks)))  # so that no query is answered from memory
        clock.tick(10)
        cache.update()
        os.truncate(path, 0)
        assert query()
        assert cache.ids() == tuple(api.tasks)
    cache.close()


def test_a_database_that_is_lost_while_it_is_read(
    api: FakeAPI, clock: Clock, tmp_path: Path
) -> None:
    """N-29, O-17: A reader of all tasks gets each of them, although the rest is lost meanwhile."""
    cache = stored_cache(api, clock, tmp_path)
    (path,) = (tmp_path / "tasks").glob("*.db")
    listing = cache.listing()
    first = [next(listing).id for _ in range(700)]
    os.truncate(path, 0)
    assert [*first, *(task.id for task in listing)] == list(api.tasks)
    listing = cache.listing()
    first = [next(listing).id for _ in range(700)]
    os.truncate(path, 0)
    api.failure = Unavailable("away")
    with pytest.raises(Unavailable):
        list(listing)
    cache.close()


def test_a_database_that_is_lost_while_it_is_filled(
    api: FakeAPI, clock: Clock, tmp_path: Path
) -> None:
    """F-20, O-17: If pages that were saved get lost, the listing is not shown before all are."""
    api.add(*(numbered(number) for number in reversed(range(COUNT, 9500))))
    mount = stored_cache(api, clock, tmp_path)
    lost: list[str] = []

    def lose(call: str) -> None:
        if call == "list page 6" and not lost:
            lost.append(call)
            eventually(lambda: mount.database.count(Scope()) >= 2000)
            (path,) = (tmp_path / "tasks").glob("*.db")
            os.truncate(path, 0)
        mount.get_cached("some other reader")

    api.before = lose
    for _ in range(3):
        assert mount.ids() == tuple(api.tasks)
        clock.tick(20)
    assert lost
    mount.close()


def test_a_lost_database_is_read_again(api: FakeAPI, clock: Clock, tmp_path: Path) -> None:
    """O-17: A database that turns out to be damaged costs a whole listing, and no wrong one."""
    cache = stored_cache(api, clock, tmp_path)
    cache.ids()
    (path,) = (tmp_path / "tasks").glob("*.db")
    cache.close()
    content = bytearray(path.read_bytes())
    for at in range(4096 * 3, len(content), 4096):
        content[at : at + 2000] = bytes(2000)
    path.write_bytes(content)
    cache = stored_cache(api, clock, tmp_path)
    cache.load_first_page()
    for _ in range(3):
        clock.tick(10)
        cache.ids()
    assert cache.ids() == tuple(api.tasks)
    assert cache.get(name_of(1000)).task == api.tasks[name_of(1000)]
    cache.close()


def test_a_clock_that_jumps(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-16: The wall clock decides nothing; the ages go by a clock that counts suspended time."""
    cache.ids()
    new_calls(api)
    clock.tick(1e7)  # after a long sleep
    api.change(name_of(0), status="failed")
    assert cache.get(name_of(0)).task.status == "failed"
    assert cache.ids() == tuple(api.tasks)
    assert "list" in new_calls(api)


def test_records_are_looked_at_when_they_are_asked_for(
    cache: TaskCache, api: FakeAPI, clock: Clock
) -> None:
    """F-22, F-5: One record costs one request, and many cost the pages that show them."""
    cache.ids()
    new_calls(api)
    clock.tick(10)
    api.change(name_of(1500), project="other")
    assert cache.get_full(name_of(1500)).task.project == "other"
    assert new_calls(api) == [f"get {name_of(1500)}"]
    for number in range(1500, 1900):
        cache.get_full(name_of(number))
    calls = new_calls(api)
    assert [call for call in calls if call.startswith("list")] == ["list page 2", "list page 3"]
    assert len(calls) <= 2 + 3


def test_records_outside_the_filter_cost_no_page(api: FakeAPI, clock: Clock) -> None:
    """F-22: A page of the listing cannot show a task that the filter leaves out."""
    for number in range(2000):
        api.change(name_of(number), project="p")
    cache = task_cache_of(api, clock=clock, task_filter=TaskFilter("p"))
    cache.ids()
    others = [name_of(number) for number in range(2100, 2110)]
    for name in others:
        cache.get(name)
    clock.tick(10)
    new_calls(api)
    for name in others:
        cache.get_full(name)
    assert new_calls(api) == [f"get {name}" for name in others]


def test_a_slow_round_while_the_mount_is_used(cache: TaskCache, api: FakeAPI, clock: Clock) -> None:
    """F-22, F-23: Records are looked at in turn while the mount is in use, else nothing is sent."""
    cache.ids()
    api.change(name_of(5), project="other")
    new_calls(api)
    clock.tick(10)
    time.sleep(0.2)
    assert new_calls(api) == []
    for _ in range(8):
        clock.tick(8.5)
        cache.ids()
        await_quiet(api)
        clock.tick(8.5)
        cache.ids()
        cache.ids()
        await_quiet(api)
    assert "list page 6" in new_calls(api)
    assert cache.database.get(name_of(5)) == api.tasks[name_of(5)]


@pytest.mark.parametrize(
    ("task_filter", "chosen"),
    [
        (TaskFilter("p"), lambda task: task.project == "p"),
        (TaskFilter("p", ("failed",)), lambda task: (task.project, task.status) == ("p", "failed")),
        (
            TaskFilter(None, ("failed", "started")),
            lambda task: task.status in ("failed", "started"),
        ),
    ],
)
def test_filters(
    api: FakeAPI, clock: Clock, task_filter: TaskFilter, chosen: Callable[[Task], bool]
) -> None:
    """C-6, F-18: A filtered listing follows what joins and leaves it."""
    for number in range(0, 2000, 2):
        status = "failed" if number % 3 else "started"
        api.change(name_of(number), project="p", status=status)
    cache = task_cache_of(api, clock=clock, task_filter=task_filter)

    def expected() -> tuple[str, ...]:
        return tuple(name for name, task in api.tasks.items() if chosen(task))

    assert cache.ids() == expected()
    api.change(name_of(6), status="failed")
    api.change(name_of(10), project="q")
    api.add(numbered(COUNT, "failed", project="p"))
    del api.tasks[name_of(22)]
    for _ in range(3):
        clock.tick(10)
        cache.ids()
        await_quiet(api)
    assert cache.ids() == expected()


def test_at_most_four_pages_at_once(api: FakeAPI, clock: Clock) -> None:
    """F-25: At most 4 pages are requested at once."""
    lock, in_flight, most = threading.Lock(), 0, 0

    def count(call: str) -> None:
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        time.sleep(0.05)
        with lock:
            in_flight -= 1

    api.before = count
    with ThreadPoolExecutor(8) as readers:
        cache = task_cache_of(api, clock=clock)
        for future in [readers.submit(cache.ids) for _ in range(8)]:
            assert len(future.result(60)) == COUNT
    assert 2 <= most <= 4
    assert len(api.calls) == 6


def test_a_listing_after_the_system_had_no_thread(
    api: FakeAPI, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-55: A whole listing whose thread did not start does not stop the next one."""
    known = KnownTasks(open_database(None, URL, "key"), clock)
    whole = WholeListing(api, known, clock)
    with no_new_threads(monkeypatch), pytest.raises(RuntimeError, match="can't start"):
        whole.start(Scope(), urgent=True)
    whole.start(Scope(), urgent=True).result(60)
    assert known.database.ids(Scope().selection) == tuple(api.tasks)
    whole.close()


def test_a_rate_limit_delays_the_background(
    cache: TaskCache, api: FakeAPI, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-25: A whole listing in the background goes on after 429 where it was."""
    monkeypatch.setattr("taskfs.tasks.whole_listing.PAGE_PAUSE_S", 0.05)
    cache.ids()
    new_calls(api)
    limited = iter([True, True])

    def limit(call: str) -> None:
        if call == "list page 4" and next(limited, False):
            raise Unavailable("429")

    api.before = limit
    del api.tasks[name_of(1000)]
    clock.tick(10)
    cache.ids()
    await_quiet(api)
    time.sleep(0.3)
    calls = new_calls(api)
    assert calls.count("list page 4") == 3 and calls.count("list page 3") == 1
    assert cache.ids() == tuple(api.tasks)

"""`ArchiveRegistry`: which version of an archive is in use, and what the kernel may keep of it."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from taskfs.archive.archive import Archive
from taskfs.archive.index import Member
from taskfs.cache.disk_cache import DiskCache
from taskfs.core import open_engine
from taskfs.errors import CorruptData, Interrupted, StaleObject, Unavailable
from taskfs.model import Task
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from taskfs.tasks.archives import (
    ABSENT_TTL_S,
    ARCHIVE_GRACE_S,
    ArchiveKind,
    ArchiveRegistry,
    PageCacheMode,
    is_archive_due,
)
from taskfs.tree.handles import ArchiveHandle
from tests.odd_zips import Odd, odd_zip
from tests.unit.fakes import Clock, FakeAPI, task_of

PATH = "t/output.zip"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api() -> FakeAPI:
    return FakeAPI()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def shelf(api: FakeAPI, pool: ThreadPoolExecutor, clock: Clock) -> ArchiveRegistry:
    return shelf_of(api, pool, clock)


def shelf_of(
    api: FakeAPI, pool: ThreadPoolExecutor, clock: Clock, waiter: Waiter | None = None
) -> ArchiveRegistry:
    engine = open_engine(Waiter(), Stats())
    return ArchiveRegistry(
        *(api, engine, pool, waiter or Waiter()), timeout_s=30, attr_timeout_s=1, clock=clock
    )


def done(task_id: str = "t", **fields: Any) -> Task:
    task = task_of(task_id, "success", output_path=f"{task_id}/output.zip", end_ns=1)
    return task._replace(**fields)


def put(api: FakeAPI, *members: Odd, path: str = PATH) -> None:
    api.put(path, odd_zip(members))


def get(shelf: ArchiveRegistry, task: Task | None = None) -> Archive:
    archive = shelf.get(task or done(), ArchiveKind.OUTPUT)
    assert archive is not None
    return archive


def member_of(archive: Archive, path: str) -> Member:
    found = archive.index.lookup(path)
    assert isinstance(found, Member)
    return found


def mode_of(
    shelf: ArchiveRegistry, archive: Archive, path: str = "a", size: int = 1
) -> PageCacheMode:
    lease, mode = shelf.lease("t", ArchiveKind.OUTPUT, archive, path, size)
    shelf.release(lease)
    return mode


def test_an_archive_is_opened_once(shelf: ArchiveRegistry, api: FakeAPI) -> None:
    """A-13: An archive costs one signed URL and one range, once."""
    put(api, Odd(b"artifacts/a", b"x"))
    assert {id(get(shelf)) for _ in range(5)} == {id(get(shelf))}
    assert api.objects[PATH].fetches == 1


def test_an_absent_one_is_asked_for_again_after_five_seconds(
    shelf: ArchiveRegistry, api: FakeAPI, clock: Clock
) -> None:
    """F-12: A missing archive is asked for again after 5 s, of which 1 s is the kernel's."""
    for _ in range(8):
        assert shelf.get(done(), ArchiveKind.OUTPUT) is None
        clock.tick(0.5)
    assert api.objects[PATH].fetches == 1
    clock.tick(ABSENT_TTL_S - 1 - 4 + 0.01)
    put(api, Odd(b"artifacts/a", b"x"))
    assert shelf.get(done(), ArchiveKind.OUTPUT) is not None


def test_without_a_path_nothing_is_asked(shelf: ArchiveRegistry, api: FakeAPI) -> None:
    """F-12: A record without a path costs no request."""
    assert shelf.get(done()._replace(output_path=None), ArchiveKind.OUTPUT) is None
    assert shelf.get(done(), ArchiveKind.INPUT) is None
    assert api.objects == {}


def test_a_failure_is_not_kept(shelf: ArchiveRegistry, api: FakeAPI) -> None:
    """F-15: A failure is neither cached nor shown as an empty directory."""
    put(api, Odd(b"artifacts/a", b"x"))
    for failure in (Unavailable("no answer"), CorruptData("damaged")):
        api.objects[PATH].failure = failure
        with pytest.raises(type(failure)):
            shelf.get(done(), ArchiveKind.OUTPUT)
    api.objects[PATH].failure = None
    assert shelf.get(done(), ArchiveKind.OUTPUT) is not None


def test_a_404_drops_the_index(shelf: ArchiveRegistry, api: FakeAPI, clock: Clock) -> None:
    """F-12: A 404 drops the index."""
    put(api, Odd(b"artifacts/a", b"x" * 200_000, 0))
    archive = get(shelf)
    shelf.replaced("t", ArchiveKind.OUTPUT, archive)
    api.objects[PATH].content = None
    assert shelf.get(done(), ArchiveKind.OUTPUT) is None


def test_a_record_that_tells_of_another_archive_is_believed(
    shelf: ArchiveRegistry, api: FakeAPI, clock: Clock
) -> None:
    """F-8, F-11: A record that tells of another archive brings the new version."""
    unfinished = task_of("t", output_path=PATH)
    assert shelf.get(unfinished, ArchiveKind.OUTPUT) is None
    put(api, Odd(b"artifacts/a", b"x"))
    first = get(shelf)  # it is terminal now: not asked for after 5 s, but at once
    assert get(shelf, done()._replace(error_detail="nothing about the archive")) is first
    put(api, Odd(b"artifacts/a", b"y"))
    assert get(shelf, done()._replace(output_zipped_bytes=7)) is not first


def test_grace(shelf: ArchiveRegistry) -> None:
    """F-13: For 60 s after a `success` a read waits for the archive."""
    now = time.time_ns()
    assert is_archive_due(done(end_ns=now))
    assert is_archive_due(done(end_ns=int(now - (ARCHIVE_GRACE_S - 5) * 1e9)))
    assert not is_archive_due(done(end_ns=int(now - (ARCHIVE_GRACE_S + 1) * 1e9)))
    assert not is_archive_due(done(status="failed", end_ns=now))
    assert not is_archive_due(done(end_ns=None))


def test_waiting_for_the_archive_ends_when_interrupted(
    api: FakeAPI, pool: ThreadPoolExecutor, clock: Clock
) -> None:
    """K-13: A reader that waits for an archive can be interrupted."""
    shelf = shelf_of(api, pool, clock, Waiter(lambda: True))
    with pytest.raises(Interrupted):
        shelf.await_archive(done(end_ns=time.time_ns()), ArchiveKind.OUTPUT)


def test_the_kernel_keeps_the_pages_of_one_version(shelf: ArchiveRegistry, api: FakeAPI) -> None:
    """F-9: The kernel keeps the pages of one version (`keep_cache`)."""
    put(api, Odd(b"artifacts/a", b"x"))
    archive = get(shelf)
    assert [mode_of(shelf, archive) for _ in range(3)] == [PageCacheMode.KEEP] * 3


def test_while_an_older_version_is_open_nothing_is_cached(
    shelf: ArchiveRegistry, api: FakeAPI, clock: Clock
) -> None:
    """F-9: While an older version is open, new opens bypass the page cache and `st_size` does not
    shrink."""
    put(api, Odd(b"artifacts/a", b"long text"))
    old = get(shelf)
    lease, mode = shelf.lease("t", ArchiveKind.OUTPUT, old, "a", 9)
    assert mode is PageCacheMode.KEEP
    shelf.replaced("t", ArchiveKind.OUTPUT, old)
    put(api, Odd(b"artifacts/a", b"short"), Odd(b"artifacts/b", b"never read before"))
    new = get(shelf)
    clock.tick(60)
    assert mode_of(shelf, new) is PageCacheMode.DIRECT
    assert mode_of(shelf, old) is PageCacheMode.DIRECT
    assert mode_of(shelf, new, "b") is PageCacheMode.DROP
    assert shelf.reported_size("t", ArchiveKind.OUTPUT, "a", 5) == 9
    assert shelf.reported_size("t", ArchiveKind.OUTPUT, "b", 17) == 17
    shelf.release(lease)
    assert shelf.reported_size("t", ArchiveKind.OUTPUT, "a", 5) == 5
    assert [mode_of(shelf, new) for _ in range(3)] == [
        *(PageCacheMode.DROP, PageCacheMode.KEEP, PageCacheMode.KEEP)
    ]
    assert mode_of(shelf, new, "b") is PageCacheMode.KEEP


def test_until_the_kernel_has_asked_again_nothing_is_cached(
    shelf: ArchiveRegistry, api: FakeAPI, clock: Clock
) -> None:
    """F-9: Until the kernel has asked for attributes again, nothing of a new version is cached."""
    put(api, Odd(b"artifacts/a", b"1"))
    shelf.replaced("t", ArchiveKind.OUTPUT, get(shelf))
    put(api, Odd(b"artifacts/a", b"22"))
    new = get(shelf)
    assert mode_of(shelf, new) is PageCacheMode.DIRECT
    clock.tick(1.6)
    assert mode_of(shelf, new) is PageCacheMode.DROP


@pytest.mark.parametrize(("count", "kept_s"), [(0, 1), (500, 1.5), (20_000, 21), (10**6, 60)])
def test_what_a_long_listing_told_is_kept_for_longer_and_waited_for(
    shelf: ArchiveRegistry, api: FakeAPI, clock: Clock, count: int, kept_s: float
) -> None:
    """F-10, F-9: A long listing is kept for longer, and nothing of a new version is cached until it
    has expired."""
    put(api, Odd(b"artifacts/a", b"1"))
    old = get(shelf)
    assert shelf.attr_lifetime("t", ArchiveKind.OUTPUT, count) == kept_s
    shelf.replaced("t", ArchiveKind.OUTPUT, old)
    put(api, Odd(b"artifacts/a", b"22"))
    new = get(shelf)
    clock.tick(kept_s + 0.4)
    assert mode_of(shelf, new) is PageCacheMode.DIRECT
    clock.tick(0.2)
    assert mode_of(shelf, new) is PageCacheMode.DROP


@pytest.mark.parametrize("disk", [False, True])
def test_an_answer_on_its_way_is_forgotten_too(
    api: FakeAPI, pool: ThreadPoolExecutor, clock: Clock, tmp_path: Path, disk: bool
) -> None:
    """N-21: A refresh also forgets an answer in flight."""
    cache = DiskCache(tmp_path, 1 << 30) if disk else None
    engine = open_engine(Waiter(), Stats(), cache, "http://localhost")
    shelf = ArchiveRegistry(
        api, engine, pool, Waiter(), timeout_s=30, attr_timeout_s=1, clock=clock
    )
    put(api, Odd(b"artifacts/old", b"x"))

    def meanwhile() -> None:
        api.objects[PATH].on_its_way = lambda: None
        put(api, Odd(b"artifacts/new", b"y"))
        shelf.forget()

    api.objects[PATH].on_its_way = meanwhile
    get(shelf)  # who asked before may get the old one
    assert get(shelf).index.lookup("new") is not None
    assert get(shelf).index.lookup("old") is None
    again = ArchiveRegistry(
        api, engine, pool, Waiter(), timeout_s=30, attr_timeout_s=1, clock=clock
    )
    assert get(again).index.lookup("new") is not None


def shelf_on_disk(
    api: FakeAPI, pool: ThreadPoolExecutor, clock: Clock, place: Path
) -> tuple[ArchiveRegistry, DiskCache]:
    cache = DiskCache(place, 1 << 30)
    engine = open_engine(Waiter(), Stats(), cache, "http://localhost")
    shelf = ArchiveRegistry(
        api, engine, pool, Waiter(), timeout_s=30, attr_timeout_s=1, clock=clock
    )
    return shelf, cache


def test_who_asks_while_the_disk_is_cleared_gets_the_new_one(
    api: FakeAPI,
    pool: ThreadPoolExecutor,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """N-21: An open while the disk is cleared gets the new version."""
    shelf, disk = shelf_on_disk(api, pool, clock, tmp_path)
    put(api, Odd(b"artifacts/old", b"x"))
    get(shelf)
    put(api, Odd(b"artifacts/new", b"y"))
    drop = disk.drop_indexes

    def ask_and_drop() -> None:
        assert get(shelf).index.lookup("new") is not None
        drop()

    monkeypatch.setattr(disk, "drop_indexes", ask_and_drop)
    shelf.forget()
    assert get(shelf).index.lookup("new") is not None


@pytest.mark.parametrize("kind", ["replaced", "forgotten on its way"])
def test_who_asks_while_an_index_is_forgotten_gets_the_new_one(
    api: FakeAPI,
    pool: ThreadPoolExecutor,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """X-5, F-8: After a replacement the next open gets the new version."""
    shelf, _ = shelf_on_disk(api, pool, clock, tmp_path)
    put(api, Odd(b"artifacts/old", b"x"))
    forget_index = Archive.forget_index
    asked: list[Archive] = []

    def ask_and_forget(archive: Archive) -> None:
        asked.append(get(shelf))
        forget_index(archive)

    def meanwhile() -> None:
        api.objects[PATH].on_its_way = lambda: None
        put(api, Odd(b"artifacts/new", b"y"))
        shelf.forget()

    if kind == "replaced":
        archive = get(shelf)
        put(api, Odd(b"artifacts/new", b"y"))
        monkeypatch.setattr(Archive, "forget_index", ask_and_forget)
        shelf.replaced("t", ArchiveKind.OUTPUT, archive)
    else:
        api.objects[PATH].on_its_way = meanwhile
        monkeypatch.setattr(Archive, "forget_index", ask_and_forget)
        get(shelf)
    assert len(asked) == 1
    assert get(shelf).index.lookup("new") is not None


def test_an_answer_to_an_older_record_does_not_count(shelf: ArchiveRegistry, api: FakeAPI) -> None:
    """F-8: An archive opened for an older record does not count for a newer one."""
    put(api, Odd(b"artifacts/old", b"x"))

    def meanwhile() -> None:
        api.objects[PATH].on_its_way = lambda: None
        put(api, Odd(b"artifacts/new", b"y"))
        assert get(shelf, done(end_ns=2)).index.lookup("new") is not None

    api.objects[PATH].on_its_way = meanwhile
    get(shelf, done(end_ns=1))
    assert get(shelf, done(end_ns=2)).index.lookup("new") is not None


def test_an_absence_noticed_before_the_end_does_not_count_after_it(
    shelf: ArchiveRegistry, api: FakeAPI
) -> None:
    """F-12: An absence from before the task's end is asked for again at once after it."""
    running = task_of("t", "started", output_path=PATH)

    assert shelf.get(running, ArchiveKind.OUTPUT) is None
    put(api, Odd(b"artifacts/new", b"y"))
    assert get(shelf).index.lookup("new") is not None


def test_the_same_version_again_is_no_new_one(shelf: ArchiveRegistry, api: FakeAPI) -> None:
    """N-21: After a refresh the same version is no new one, but the kernel's pages are dropped
    once."""
    put(api, Odd(b"artifacts/a", b"1"))
    before = get(shelf)
    shelf.forget()
    after = get(shelf)
    assert after is not before
    assert after.version == before.version
    assert [mode_of(shelf, after) for _ in range(2)] == [PageCacheMode.DROP, PageCacheMode.KEEP]


def test_pages_that_proved_wrong_are_let_go(shelf: ArchiveRegistry, api: FakeAPI) -> None:
    """I-5: After a mismatch the next open starts without the kernel's pages."""
    put(api, Odd(b"artifacts/a", b"1"))
    archive = get(shelf)
    shelf.damaged("t", ArchiveKind.OUTPUT, archive, "a")
    assert [mode_of(shelf, archive) for _ in range(2)] == [PageCacheMode.DROP, PageCacheMode.KEEP]


def test_a_stale_handle_stays_stale(shelf: ArchiveRegistry, api: FakeAPI) -> None:
    """F-8, X-5: A stale handle stays ESTALE, and the next open gets the new version."""
    content = bytes(range(256)) * 2000
    put(api, Odd(b"artifacts/a", content, 0))
    archive = get(shelf)
    member = member_of(archive, "a")
    lease, mode = shelf.lease("t", ArchiveKind.OUTPUT, archive, "a", member.size)
    handle = ArchiveHandle(archive.open_member(member), member.size, archive, lease, mode, shelf)
    assert handle.read_at(0, 10) == content[:10]
    put(api, Odd(b"artifacts/a", content[::-1], 0))
    with pytest.raises(StaleObject):
        for start in range(0, len(content), 1000):
            handle.read_at(start, 1000)
    with pytest.raises(StaleObject):
        handle.read_at(0, 10)
    handle.close()
    new = get(shelf)
    assert new is not archive
    assert new.open_member(member_of(new, "a")).read_at(0, 3) == content[::-1][:3]


def test_many_callers_open_it_once(shelf: ArchiveRegistry, api: FakeAPI) -> None:
    """A-13: Many callers at once cost one signed URL and one range."""
    put(api, Odd(b"artifacts/a", b"x"))
    with ThreadPoolExecutor(10) as callers:
        found = list(callers.map(lambda _: get(shelf), range(30)))
    assert len(set(map(id, found))) == 1
    assert api.objects[PATH].fetches == 1


def test_indexes_unused_longest_make_room(
    shelf: ArchiveRegistry, api: FakeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-20: The indexes that were unused longest are evicted."""
    monkeypatch.setattr("taskfs.tasks.archives.MAX_MEMBERS", 25)
    archives = []
    for name in "abcde":
        put(api, *(Odd(b"artifacts/%d" % n, b"x") for n in range(10)), path=f"{name}/output.zip")
        archives.append(get(shelf, done(name)))
    assert get(shelf, done("e")) is archives[4]
    assert get(shelf, done("d")) is archives[3]
    assert get(shelf, done("a")) is not archives[0]
    assert get(shelf, done("a")).version == archives[0].version

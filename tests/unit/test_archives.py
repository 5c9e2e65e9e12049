"""`taskfs.tasks.archives`: each archive is loaded once, and replaced when it is outdated."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from taskfs.archive import open_archive
from taskfs.archive.archive import Archive
from taskfs.archive.long_builds import LongBuilds
from taskfs.archive.member import Member
from taskfs.cache.disk_cache import DiskCache
from taskfs.core import open_resources
from taskfs.errors import CorruptData, Interrupted, StaleObject, Unavailable
from taskfs.model import RemoteObject, Task
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from taskfs.tasks.archive_kind import ArchiveKey, ArchiveKind
from taskfs.tasks.archives import ArchiveRegistry
from taskfs.tree.archive_handles import ArchiveHandle
from taskfs.tree.page_cache import PageCache, PageCacheMode
from tests.mounts import TIMEOUT_S, eventually
from tests.unit.fakes import Clock, FakeAPI, task_of
from tests.zips import Entry, build, file

PATH = "t/output.zip"
OUTPUT = ArchiveKey("t", ArchiveKind.OUTPUT)


@pytest.fixture
def api() -> FakeAPI:
    return FakeAPI()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


class Setup:
    """A registry and its page cache on a fake API; *disk* is a cache directory, or None."""

    def __init__(self, api: FakeAPI, pool: ThreadPoolExecutor, clock: Clock) -> None:
        self.api = api
        self.pool = pool
        self.clock = clock
        self.page_cache = PageCache(1, clock)
        self.long_builds = LongBuilds()  # of the latest registry

    def registry(
        self,
        disk: DiskCache | None = None,
        *,
        waiter: Waiter | None = None,
        max_index_bytes: int = 1 << 20,
    ) -> ArchiveRegistry:
        resources = open_resources(Waiter(), Stats(), disk, "http://localhost")
        self.long_builds = resources.long_builds
        return ArchiveRegistry(
            self.api,
            resources,
            self.pool,
            waiter or Waiter(),
            self.page_cache,
            timeout_s=30,
            attr_timeout_s=1,
            max_index_bytes=max_index_bytes,
            clock=self.clock,
        )


@pytest.fixture
def setup(api: FakeAPI, pool: ThreadPoolExecutor, clock: Clock) -> Setup:
    return Setup(api, pool, clock)


@pytest.fixture
def registry(setup: Setup) -> ArchiveRegistry:
    return setup.registry()


@pytest.fixture
def disk(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path, 1 << 30)


def done(task_id: str = "t", **fields: Any) -> Task:
    task = task_of(task_id, "success", output_path=f"{task_id}/output.zip", end_ns=1)
    return task._replace(**fields)


def put(api: FakeAPI, *members: Entry, path: str = PATH) -> None:
    api.put(path, build(members))


def get(registry: ArchiveRegistry, task: Task | None = None) -> Archive:
    archive = registry.get(task or done(), ArchiveKind.OUTPUT)
    assert archive is not None
    return archive


def member_of(archive: Archive, path: str) -> Member:
    found = archive.index.lookup(path)
    assert isinstance(found, Member)
    return found


def test_an_archive_is_loaded_once(registry: ArchiveRegistry, api: FakeAPI) -> None:
    """A-13: An archive costs one signed URL and one range, once."""
    put(api, Entry(b"artifacts/a", b"x"))
    assert {id(get(registry)) for _ in range(5)} == {id(get(registry))}
    assert api.objects[PATH].fetches == 1


def test_many_callers_load_it_once(registry: ArchiveRegistry, api: FakeAPI) -> None:
    """A-13: Many callers at once cost one signed URL and one range."""
    put(api, Entry(b"artifacts/a", b"x"))
    with ThreadPoolExecutor(10) as callers:
        found = list(callers.map(lambda _: get(registry), range(30)))
    assert len(set(map(id, found))) == 1
    assert api.objects[PATH].fetches == 1


def test_an_absent_archive_is_requested_again_after_five_seconds(
    registry: ArchiveRegistry, api: FakeAPI, clock: Clock
) -> None:
    """F-12: A missing archive is asked for again after 5 s, of which 1 s is the kernel's."""
    for _ in range(8):
        assert registry.get(done(), ArchiveKind.OUTPUT) is None
        clock.tick(0.5)
    assert api.objects[PATH].fetches == 1
    clock.tick(0.01)
    put(api, Entry(b"artifacts/a", b"x"))
    assert registry.get(done(), ArchiveKind.OUTPUT) is not None


def test_without_a_path_no_request_is_sent(registry: ArchiveRegistry, api: FakeAPI) -> None:
    """F-12: A record without a path costs no request."""
    assert registry.get(done()._replace(output_path=None), ArchiveKind.OUTPUT) is None
    assert registry.get(done(), ArchiveKind.INPUT) is None
    assert api.objects == {}


def test_a_failure_is_not_cached(registry: ArchiveRegistry, api: FakeAPI) -> None:
    """F-15: A failure is neither cached nor shown as an empty directory."""
    put(api, Entry(b"artifacts/a", b"x"))
    for failure in (Unavailable("no answer"), CorruptData("damaged")):
        api.objects[PATH].failure = failure
        with pytest.raises(type(failure)):
            registry.get(done(), ArchiveKind.OUTPUT)
    api.objects[PATH].failure = None
    assert registry.get(done(), ArchiveKind.OUTPUT) is not None


def test_a_404_drops_the_index(registry: ArchiveRegistry, api: FakeAPI) -> None:
    """F-12: A 404 drops the index."""
    put(api, Entry(b"artifacts/a", b"x" * 200_000, 0))
    archive = get(registry)
    registry.discard(OUTPUT, archive)
    api.objects[PATH].content = None
    assert registry.get(done(), ArchiveKind.OUTPUT) is None


def test_a_changed_record_replaces_the_archive(registry: ArchiveRegistry, api: FakeAPI) -> None:
    """F-8, F-11: A changed record brings the new version."""
    unfinished = task_of("t", output_path=PATH)
    assert registry.get(unfinished, ArchiveKind.OUTPUT) is None
    put(api, Entry(b"artifacts/a", b"x"))
    first = get(registry)  # at once, not after 5 s: the task is terminal now
    assert get(registry, done()._replace(error_detail="nothing about the archive")) is first
    put(api, Entry(b"artifacts/a", b"y"))
    assert get(registry, done()._replace(output_zipped_bytes=7)) is not first


def test_waiting_for_a_late_archive_ends_when_interrupted(setup: Setup) -> None:
    """K-13: A reader that waits for an archive can be interrupted."""
    registry = setup.registry(waiter=Waiter(lambda: True))
    with pytest.raises(Interrupted):
        registry.await_archive(done(end_ns=time.time_ns()), ArchiveKind.OUTPUT)


def test_waiting_for_a_late_archive_goes_on_after_a_suspend(setup: Setup) -> None:
    """F-13, F-16: A suspend does not count towards the timeout of a reader that waits for an
    archive."""
    get_object = setup.api.open_object

    def open_after_a_suspend(path: str, region: str | None) -> RemoteObject:
        setup.clock.tick(1000)
        found = get_object(path, region)
        if setup.clock.now_s > 3000:
            put(setup.api, file("artifacts/a"))
        return found

    setup.api.open_object = open_after_a_suspend  # type: ignore[method-assign]
    late = done(end_ns=time.time_ns())
    assert setup.registry().await_archive(late, ArchiveKind.OUTPUT) is not None


def put_old_then_new(api: FakeAPI, registry: ArchiveRegistry) -> None:
    """Put an archive that is replaced, and refreshed by *registry*, while it is first requested."""
    put(api, Entry(b"artifacts/old", b"x"))

    def meanwhile() -> None:
        api.objects[PATH].before_reply = lambda: None
        put(api, Entry(b"artifacts/new", b"y"))
        registry.forget()

    api.objects[PATH].before_reply = meanwhile


@pytest.mark.parametrize("on_disk", [False, True])
def test_forget_covers_a_load_under_way(
    setup: Setup, api: FakeAPI, disk: DiskCache, on_disk: bool
) -> None:
    """N-21: A refresh also forgets an answer in flight."""
    registry = setup.registry(disk if on_disk else None)
    put_old_then_new(api, registry)
    get(registry)  # this caller waited already, and may get the old version
    assert get(registry).index.lookup("new") is not None
    assert get(registry).index.lookup("old") is None
    again = setup.registry(disk if on_disk else None)
    assert get(again).index.lookup("new") is not None


def test_a_refresh_covers_a_load_of_another_process(
    setup: Setup, api: FakeAPI, disk: DiskCache, tmp_path: Path
) -> None:
    """N-21: After a refresh no index comes from the disk that another process requested before."""
    other, registry = setup.registry(DiskCache(tmp_path, 1 << 30)), setup.registry(disk)
    put_old_then_new(api, registry)
    assert get(other).index.lookup("old") is not None
    assert get(registry).index.lookup("new") is not None


def test_a_load_that_waits_for_its_turn_ends_when_forgotten(
    setup: Setup, api: FakeAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N-21: A caller of a load that still waits to be parsed gets the version after a refresh."""
    monkeypatch.setattr(open_archive, "LONG_DIRECTORY", 0)
    registry = setup.registry()
    put(api, Entry(b"artifacts/old", b"x"))
    with setup.long_builds.turn(lambda: True):
        caller = setup.pool.submit(get, registry)
        eventually(lambda: api.objects[PATH].fetches == 1)
        put(api, Entry(b"artifacts/new", b"y"))
        registry.forget()
        eventually(lambda: api.objects[PATH].fetches == 2)  # the lock is still held
    assert caller.result(TIMEOUT_S).index.lookup("new") is not None
    assert api.objects[PATH].fetches == 2


def test_a_load_while_the_disk_is_cleared_gets_the_new_version(
    setup: Setup, api: FakeAPI, disk: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N-21: A load while the disk is cleared gets the new version."""
    registry = setup.registry(disk)
    put(api, Entry(b"artifacts/old", b"x"))
    get(registry)
    put(api, Entry(b"artifacts/new", b"y"))
    drop = disk.drop_indexes

    def load_and_drop() -> None:
        assert get(registry).index.lookup("new") is not None
        drop()

    monkeypatch.setattr(disk, "drop_indexes", load_and_drop)
    registry.forget()
    assert get(registry).index.lookup("new") is not None


@pytest.mark.parametrize("reason", ["replaced", "forgotten during its load"])
def test_a_load_while_an_index_is_dropped_gets_the_new_version(
    setup: Setup, api: FakeAPI, disk: DiskCache, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """X-5, F-8: After a replacement the next open gets the new version."""
    registry = setup.registry(disk)
    put(api, Entry(b"artifacts/old", b"x"))
    forget_index = Archive.forget_index
    loaded: list[Archive] = []

    def load_and_forget(archive: Archive) -> None:
        loaded.append(get(registry))
        forget_index(archive)

    def meanwhile() -> None:
        api.objects[PATH].before_reply = lambda: None
        put(api, Entry(b"artifacts/new", b"y"))
        registry.forget()

    if reason == "replaced":
        archive = get(registry)
        put(api, Entry(b"artifacts/new", b"y"))
        monkeypatch.setattr(Archive, "forget_index", load_and_forget)
        registry.discard(OUTPUT, archive)
    else:
        api.objects[PATH].before_reply = meanwhile
        monkeypatch.setattr(Archive, "forget_index", load_and_forget)
        get(registry)
    assert len(loaded) == 1
    assert get(registry).index.lookup("new") is not None


def test_a_load_for_an_older_record_is_not_used(registry: ArchiveRegistry, api: FakeAPI) -> None:
    """F-8: An archive loaded for an older record is not used for a newer one."""
    put(api, Entry(b"artifacts/old", b"x"))

    def meanwhile() -> None:
        api.objects[PATH].before_reply = lambda: None
        put(api, Entry(b"artifacts/new", b"y"))
        assert get(registry, done(end_ns=2)).index.lookup("new") is not None

    api.objects[PATH].before_reply = meanwhile
    get(registry, done(end_ns=1))
    assert get(registry, done(end_ns=2)).index.lookup("new") is not None


def test_an_absence_before_the_end_is_not_cached_after_it(
    registry: ArchiveRegistry, api: FakeAPI
) -> None:
    """F-12: An absence from before the task's end is asked for again at once after it."""
    running = task_of("t", "started", output_path=PATH)

    assert registry.get(running, ArchiveKind.OUTPUT) is None
    put(api, Entry(b"artifacts/new", b"y"))
    assert get(registry).index.lookup("new") is not None


def test_the_page_cache_learns_of_each_load(setup: Setup, api: FakeAPI) -> None:
    """N-21: After a refresh the same version is loaded again; the kernel drops its pages once."""
    registry = setup.registry()
    put(api, Entry(b"artifacts/a", b"1"))
    before = get(registry)
    registry.forget()
    after = get(registry)
    assert after is not before
    assert after.version == before.version
    leases = [setup.page_cache.lease(OUTPUT, after.version, "a", 1) for _ in range(2)]
    assert [lease.mode for lease in leases] == [PageCacheMode.DROP, PageCacheMode.KEEP]


def test_a_stale_handle_stays_stale(setup: Setup, api: FakeAPI) -> None:
    """F-8, X-5: A stale handle stays ESTALE, and the next open gets the new version."""
    registry, page_cache = setup.registry(), setup.page_cache
    content = bytes(range(256)) * 2000
    put(api, Entry(b"artifacts/a", content, 0))
    archive = get(registry)
    member = member_of(archive, "a")
    lease = page_cache.lease(OUTPUT, archive.version, "a", member.size)
    handle = ArchiveHandle(archive.open_member(member), archive, lease, registry, page_cache)
    assert handle.read_at(0, 10) == content[:10]
    put(api, Entry(b"artifacts/a", content[::-1], 0))
    with pytest.raises(StaleObject):
        for start in range(0, len(content), 1000):
            handle.read_at(start, 1000)
    with pytest.raises(StaleObject):
        handle.read_at(0, 10)
    handle.close()
    new = get(registry)
    assert new is not archive
    assert new.open_member(member_of(new, "a")).read_at(0, 3) == content[::-1][:3]


def test_the_least_recently_used_indexes_are_evicted(setup: Setup, api: FakeAPI) -> None:
    """R-20: The least recently used indexes are evicted."""
    registry = setup.registry(max_index_bytes=40_000)
    archives = []
    for name in "abcde":
        put(api, *(Entry(b"artifacts/%d" % n, b"x") for n in range(10)), path=f"{name}/output.zip")
        archives.append(get(registry, done(name)))
    assert get(registry, done("e")) is archives[4]
    assert get(registry, done("d")) is archives[3]
    assert get(registry, done("a")) is not archives[0]
    assert get(registry, done("a")).version == archives[0].version


def test_small_archives_are_evicted(setup: Setup, api: FakeAPI) -> None:
    """R-20: Of archives with a few bytes of index no more stay than their objects have room."""
    registry = setup.registry(max_index_bytes=160_000)
    archives = []
    for number in range(12):
        put(api, Entry(b"artifacts/a", b"x"), path=f"{number}/output.zip")
        archives.append(get(registry, done(str(number))))
    early = [registry.peek(done(str(number)), ArchiveKind.OUTPUT) for number in range(3)]
    assert early == [None] * 3
    assert get(registry, done("11")) is archives[11]


def test_an_archive_with_open_files_is_not_evicted(setup: Setup, api: FakeAPI) -> None:
    """R-20: An archive with open files is not evicted, because that would free nothing."""
    registry = setup.registry(max_index_bytes=1)
    put(api, Entry(b"artifacts/a", b"x"))
    put(api, Entry(b"artifacts/a", b"x"), path="other/output.zip")
    first = get(registry)
    lease = setup.page_cache.lease(OUTPUT, first.version, "a", 1)
    get(registry, done("other"))
    assert get(registry) is first
    setup.page_cache.release(lease)
    get(registry, done("other"))
    put(api, Entry(b"artifacts/a", b"x"), path="third/output.zip")
    get(registry, done("third"))
    assert get(registry) is not first


def test_a_load_at_the_end_of_a_mount(registry: ArchiveRegistry, pool: ThreadPoolExecutor) -> None:
    """E-1: Each caller that comes after the end of the pools gets the same error."""
    pool.shutdown()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            get(registry)


def test_the_reason_why_files_cannot_be_shown_keeps_no_frames(
    registry: ArchiveRegistry, api: FakeAPI
) -> None:
    """R-20: An archive that cannot be shown keeps none of its bytes in memory."""
    api.put(PATH, build([Entry(b"artifacts/a", b"x")])[:-1])
    error = get(registry).index_error
    assert error is not None
    assert (error.__traceback__, error.__context__) == (None, None)

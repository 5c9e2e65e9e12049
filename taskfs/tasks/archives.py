"""`ArchiveRegistry`: loads the archives of tasks, each once, and replaces outdated ones."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from taskfs.archive.long_builds import NotWanted
from taskfs.archive.resources import ArchiveResources
from taskfs.errors import ArchiveLate, NotFound, StaleObject
from taskfs.model import ObjectVersion, RemoteObject, Task, TaskAPI
from taskfs.support.clock import age_clock
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.thread_pool import DaemonPool
from taskfs.support.wait_hook import announce_wait
from taskfs.tasks.archive_kind import ArchiveKey, ArchiveKind, remaining_grace_s
from taskfs.tasks.archive_slot import Load, Slot

if TYPE_CHECKING:
    from taskfs.archive.archive import Archive
    from taskfs.archive.member_part import PartRead

# Seconds until the store is asked again for an archive that it did not have.
ABSENT_TTL_S: Final = 5.0
# Seconds between two requests for an archive that is late.
GRACE_POLL_S: Final = 0.5
# Requests in flight for archives that a task walk will need.
PREFETCH_THREADS: Final = 8
# Bytes of all archives in memory together; an index in a file counts as 1 MiB.
MAX_INDEX_BYTES: Final = 64 << 20


class ArchiveObserver(Protocol):
    """An object that follows which version of each archive is in use.

    The registry calls it with its lock held; it must not call the registry.
    """

    def note_version(self, key: ArchiveKey, version: ObjectVersion) -> None:
        """Note that *version* was loaded and is in use from now on."""
        ...

    def note_dropped(self, key: ArchiveKey) -> None:
        """Note that the archive is not in use any more, because it may have changed."""
        ...

    def has_open_files(self, key: ArchiveKey) -> bool:
        """Whether files of any version of the archive are open."""
        ...


class ArchiveRegistry:
    """The archives in use.

    Safe for concurrent use: the lock guards the slots, and is never held during a request.
    """

    def __init__(
        self,
        api: TaskAPI,
        resources: ArchiveResources,
        pool: Executor,
        waiter: Waiter,
        observer: ArchiveObserver,
        *,
        timeout_s: float,
        attr_timeout_s: float,
        max_index_bytes: int = MAX_INDEX_BYTES,
        clock: Callable[[], float] = age_clock,
    ) -> None:
        self._api = api
        self._resources = resources
        self._pool = pool
        self._waiter = waiter
        self._observer = observer
        self._timeout_s = timeout_s
        self._attr_timeout_s = attr_timeout_s
        self._max_index_bytes = max_index_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._slots: OrderedDict[ArchiveKey, Slot] = OrderedDict()  # in the order of use
        self._running_forgets = 0  # calls of `forget` that have not cleared the disk yet
        self._prefetch_pool = DaemonPool(PREFETCH_THREADS, "taskfs-walk")
        # Called when a reader needs an archive; it must not wait.
        self.on_use: Callable[[Task, ArchiveKind], None] = lambda task, kind: None
        # Called when a handle on a member is closed, from which a part was read; it must not wait.
        self.on_read: Callable[[ArchiveKey, PartRead], None] = lambda key, part: None
        self.epoch = 0  # grows when an archive is loaded or dropped: nodes made before are stale

    def get(self, task: Task, kind: ArchiveKind, *, raw: bool = False) -> "Archive | None":
        """Return the archive, or None if the store has none.

        An archive with an `index_error` is loaded again, because its bytes may have been damaged in
        transit; with *raw*, for a caller that reads the archive as one file, it is returned.
        """
        path = kind.path(task)
        if path is None:
            return None
        self.on_use(task, kind)
        with suppress(NotFound):
            while True:
                with suppress(NotWanted):  # another load has taken its place
                    return self._get(task, kind, path, raw)
        return None

    def _get(self, task: Task, kind: ArchiveKind, path: str, raw: bool) -> "Archive | None":
        with self._lock:
            slot = self._slot(ArchiveKey(task.id, kind))
            self._match_record(slot, task, kind)
            if slot.archive is not None and slot.archive.is_index_lost:
                slot.archive.forget_index()
                slot.archive = None
                self.epoch += 1
            # No read would notice that an empty archive was replaced.
            raw_suffices = raw and slot.archive is not None and slot.archive.size
            if slot.archive is not None and (raw_suffices or slot.archive.index_error is None):
                return slot.archive
            if self._clock() < slot.absent_until_s:
                return None
            # Not a variable, because a failure's traceback refers to this frame.
            results = [(slot.load or self._start_load(slot, task, kind, path)).result]
        return self._waiter.result(results.pop())

    def peek(self, task: Task, kind: ArchiveKind) -> "Archive | None":
        """Return the archive if it is loaded and can be shown; do not wait."""
        with self._lock:
            slot = self._slots.get(ArchiveKey(task.id, kind))
            if slot is None or slot.identity != (kind.path(task), kind.identity(task)):
                return None
            archive = slot.archive
        return archive if archive is not None and archive.index_error is None else None

    def when_loaded(self, key: ArchiveKey, action: "Callable[[Archive], object]") -> None:
        """Call *action* with the archive: now, or after the load in flight, if there is either."""
        with self._lock:
            slot = self._slots.get(key)
            archive, load = (slot.archive, slot.load) if slot is not None else (None, None)
        if archive is not None:
            action(archive)
        elif load is not None:
            load.when_done(action)

    def is_current(self, key: ArchiveKey, archive: "Archive") -> bool:
        """Whether *archive* is the one in use."""
        slot = self._slots.get(key)
        return slot is not None and slot.archive is archive

    def prefetch(self, tasks: Iterable[Task], kind: ArchiveKind) -> None:
        """Load the archives of finished tasks that are neither loaded nor known to be absent, in
        the background; one request signs the URLs of all."""
        by_region: dict[str | None, list[tuple[Task, str]]] = {}
        with self._lock:
            for task in tasks:
                path, slot = kind.path(task), self._slots.get(ArchiveKey(task.id, kind))
                is_known = slot is not None and (
                    slot.archive or slot.load or self._clock() < slot.absent_until_s
                )
                if path is not None and task.is_terminated and not is_known:
                    by_region.setdefault(task.region, []).append((task, path))
            for region, wanted in by_region.items():
                objects = self._api.open_objects([path for _, path in wanted], region)
                for (task, path), remote in zip(wanted, objects, strict=True):
                    slot = self._slot(ArchiveKey(task.id, kind))
                    self._match_record(slot, task, kind)
                    self._start_load(slot, task, kind, path, remote)

    def await_archive(
        self, task: Task, kind: ArchiveKind, *, raw: bool = False
    ) -> "Archive | None":
        """Return the archive as `get` does; wait for one that is late.

        Raises:
            ArchiveLate: it did not come within the timeout (ETIMEDOUT).
        """
        deadline_s = time.monotonic() + self._timeout_s
        while True:
            archive = self.get(task, kind, raw=raw)
            if archive is not None or not remaining_grace_s(task, kind, self._api.clock_offset_s):
                return archive
            if time.monotonic() >= deadline_s:
                raise ArchiveLate(f"task {task.id} has succeeded, but its archive is not there yet")
            self._waiter.check()
            announce_wait()
            time.sleep(GRACE_POLL_S)
            with self._lock:
                self._slot(ArchiveKey(task.id, kind)).absent_until_s = float("-inf")

    def discard(self, key: ArchiveKey, archive: "Archive") -> None:
        """Stop using *archive*, because the store no longer has this version or it is damaged."""
        archive.forget_index()  # before another caller can load the archive again
        with self._lock:
            slot = self._slot(key)
            if slot.archive is archive:
                slot.archive = None
                self.epoch += 1
                self._observer.note_dropped(key)

    def forget(self) -> None:
        """Have every archive loaded again; open files keep the version they have."""
        with self._lock:
            self._running_forgets += 1
            for key, slot in self._slots.items():
                slot.expire()
                self._observer.note_dropped(key)
            self.epoch += 1
        try:
            if self._resources.disk is not None:
                self._resources.disk.drop_indexes()
        finally:
            with self._lock:
                self._running_forgets -= 1

    def _slot(self, key: ArchiveKey) -> Slot:
        slot = self._slots.setdefault(key, Slot())
        self._slots.move_to_end(key)
        return slot

    def _match_record(self, slot: Slot, task: Task, kind: ArchiveKind) -> None:
        """Expire the archive in use if the task's record now identifies another one."""
        identity = (kind.path(task), kind.identity(task))
        if slot.identity != identity:
            slot.identity = identity
            slot.expire()
            self.epoch += 1
            self._observer.note_dropped(ArchiveKey(task.id, kind))

    def _start_load(
        self,
        slot: Slot,
        task: Task,
        kind: ArchiveKind,
        path: str,
        remote: RemoteObject | None = None,
    ) -> Load:
        identity = kind.identity(task)
        if self._running_forgets or slot.abandoned_loads:
            identity = None  # the index on disk may be the one to be dropped
        load = slot.load = Load(task, kind, path, identity)
        pool = self._pool if remote is None else self._prefetch_pool
        try:
            load.result = pool.submit(self._run_load, slot, load, remote)
        except RuntimeError:  # the mount is ending, or the system has no thread left
            slot.load = None
            raise
        return load

    def _run_load(self, slot: Slot, load: Load, remote: RemoteObject | None) -> "Archive":
        from taskfs.archive.open_archive import open_archive

        archive, is_absent = None, False
        try:
            if remote is None:
                remote = self._api.open_object(load.path, load.task.region)
            open_it = partial(
                open_archive,
                remote,
                load.kind.root,
                self._resources,
                load.kind.expected_members(load.task),
                name=load.path,
                identity=load.identity,
                is_wanted=lambda: slot.load is load,
            )
            try:
                archive = open_it()
            except StaleObject:  # replaced after its end was read and before its directory was
                archive = open_it()
            slot.log_index_error(load.path, archive)
            return archive
        except NotFound:
            is_absent = True
            raise
        finally:
            self._finish_load(slot, load, archive, is_absent)

    def _finish_load(
        self, slot: Slot, load: Load, archive: "Archive | None", is_absent: bool
    ) -> None:
        with self._lock:  # in one step, so that no caller in between starts another load
            if slot.load is load:
                slot.load = None
                if is_absent:
                    slot.archive = None
                    self._observer.note_dropped(ArchiveKey(load.task.id, load.kind))
                    # The kernel keeps its answer for attr_timeout_s more.
                    slot.absent_until_s = self._clock() + ABSENT_TTL_S - self._attr_timeout_s
                if archive is not None and not _is_still_unreadable(archive, slot.archive):
                    self._use(slot, ArchiveKey(load.task.id, load.kind), archive)
                return
        if archive is not None:
            archive.forget_index()
        with self._lock:
            slot.abandoned_loads -= 1

    def _use(self, slot: Slot, key: ArchiveKey, archive: "Archive") -> None:
        self._observer.note_version(key, archive.version)
        slot.archive = archive
        self.epoch += 1
        self._evict(slot)

    def _evict(self, newest: Slot) -> None:
        """Drop the least recently used archives while all together take too much memory.

        An archive with open files stays, because they hold it in memory.
        """
        total = sum(slot.archive.memory_bytes for slot in self._slots.values() if slot.archive)
        for key, slot in list(self._slots.items()):
            if total <= self._max_index_bytes:
                return
            is_unused = slot is not newest and not self._observer.has_open_files(key)
            if slot.archive is not None and is_unused:
                total -= slot.archive.memory_bytes
                slot.archive = None


def _is_still_unreadable(archive: "Archive", before: "Archive | None") -> bool:
    """Whether *archive* is unreadable, and of the same version as the one in use."""
    is_same_version = before is not None and archive.version == before.version
    return is_same_version and archive.index_error is not None

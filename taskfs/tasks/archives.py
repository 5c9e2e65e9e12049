"""`ArchiveRegistry`: which version of which task's archive is in use, and what the kernel may keep of it.

The kernel's page cache and size belong to a path, not to an open file. So the shelf counts which
versions are open, and says for each open whether the kernel may keep the pages it has, must let
go of them, or must not cache at all.
"""

import enum
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from taskfs.archive.archive import Archive, open_archive
from taskfs.archive.engine import Engine
from taskfs.archive.refusal import Complaint, log_refusal
from taskfs.errors import NotFound, StaleObject, Unavailable
from taskfs.model import ObjectVersion, Task, TaskAPI
from taskfs.support.clock import age_clock
from taskfs.support.interruptible_wait import Waiter

ABSENT_TTL_S: Final = 5.0
# So long after the end of a successful task its archive may still be on its way.
ARCHIVE_GRACE_S: Final = 60.0
GRACE_POLL_S: Final = 0.5
# A walk over a thousand names takes as long as the kernel keeps a name, and over many, longer.
KEPT_NAMES: Final = 1000
MAX_KEEP_S: Final = 60.0
SETTLE_S: Final = 0.5  # for what is on its way
MAX_MEMBERS: Final = 250_000  # of all indexes in memory together; the ones unused longest go


class ArchiveKind(enum.Enum):
    """The two archives of a task, with the root of what is shown of them."""

    OUTPUT = "output"
    INPUT = "input"

    @property
    def root(self) -> str:
        """Where the shown members lie in the archive."""
        return "artifacts/" if self is ArchiveKind.OUTPUT else "sim_dir/"

    def path(self, task: Task) -> str | None:
        """Return where the store keeps it, None if the record does not say."""
        return task.output_path if self is ArchiveKind.OUTPUT else task.input_path

    def identity(self, task: Task) -> tuple[object, ...] | None:
        """Return what the record tells of the archive's version, None while it may still change."""
        if self is ArchiveKind.INPUT:
            return (task.id, task.input_submit_ns) if task.input_submit_ns else None
        if not task.is_terminated:
            return None
        return task.id, task.end_ns, task.output_zipped_bytes


class PageCacheMode(enum.Enum):
    """What the kernel may do with the pages of a file that is opened."""

    KEEP = enum.auto()
    DROP = enum.auto()
    DIRECT = enum.auto()


@dataclass(slots=True)
class _Slot:
    """One archive of one task. `generation` counts the versions that were seen."""

    identity: tuple[object, ...] = ()
    archive: Archive | None = None
    version: ObjectVersion | None = None  # of the last archive, also while there is none
    generation: int = 0
    reported_until_s: float = float("-inf")  # the kernel may go by what listings told
    settled_s: float = float("-inf")  # by then it has asked again after the last change
    absent_until_s: float = float("-inf")
    clean: set[str] | None = None  # paths without pages of older versions; None: all
    damaged: set[str] = field(default_factory=set)
    opened: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    loading: "Future[Archive] | None" = None
    load_id: object = None  # of the load whose outcome still counts
    complaint: Complaint | None = None  # what the log says of it
    abandoned_loads: int = (
        0  # loads under way whose outcome does not: they may still write to the disk
    )

    def abandon_load(self) -> None:
        """What is on its way was asked for too early: nobody else is to wait for it or use it."""
        self.abandoned_loads += self.loading is not None
        self.loading = self.load_id = None


class Lease(NamedTuple):
    """One open file's claim on one version; give it back with `ArchiveRegistry.release`."""

    key: tuple[str, ArchiveKind]
    path: str
    generation: int
    size: int


class ArchiveRegistry:
    """The archives in use. Safe for concurrent use: the lock guards the slots, nothing goes out
    under it."""

    def __init__(
        self,
        api: TaskAPI,
        engine: Engine,
        pool: Executor,
        waiter: Waiter,
        *,
        timeout_s: float,
        attr_timeout_s: float,
        clock: Callable[[], float] = age_clock,
    ) -> None:
        self._api = api
        self._engine = engine
        self._pool = pool
        self._waiter = waiter
        self._timeout_s = timeout_s
        self._attr_timeout_s = attr_timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._slots: OrderedDict[tuple[str, ArchiveKind], _Slot] = OrderedDict()
        self._forgetting = 0  # who is about to drop what is kept on disk
        self.epoch = 0  # counts the archives that came and went: what was derived from one is old

    def get(self, task: Task, kind: ArchiveKind, *, raw: bool = False) -> Archive | None:
        """Return the archive, None while there is none; that is asked for again after 5 s.

        One whose files could not be shown is looked at again, because its bytes may have been
        damaged on their way, unless its own bytes are wanted, *raw*.
        """
        path = kind.path(task)
        if path is None:
            return None
        with self._lock:
            slot = self._slot(task.id, kind)
            self._match_record(slot, task, kind)
            # No read would notice that an empty one was replaced.
            is_enough = raw and slot.archive is not None and slot.archive.size
            if slot.archive is not None and (is_enough or slot.archive.refusal is None):
                return slot.archive
            if self._clock() < slot.absent_until_s:
                return None
            future = slot.loading
            if future is None:
                slot.load_id = object()
                identity = kind.identity(task)
                if self._forgetting or slot.abandoned_loads:
                    identity = None  # what the disk has of it may be what is to be forgotten
                future = self._pool.submit(
                    self._load, slot, slot.load_id, task, kind, path, identity
                )
                slot.loading = future
        try:
            return self._waiter.result(future)
        except NotFound:
            return None

    def await_archive(self, task: Task, kind: ArchiveKind, *, raw: bool = False) -> Archive | None:
        """Return the archive; one that a task which just succeeded must have is waited for.

        Raises:
            Unavailable: it did not come within the timeout (ETIMEDOUT).
        """
        deadline_s = self._clock() + self._timeout_s
        while True:
            archive = self.get(task, kind, raw=raw)
            if archive is not None or kind is ArchiveKind.INPUT or not self._is_archive_due(task):
                return archive
            if self._clock() >= deadline_s:
                raise Unavailable(f"task {task.id} has succeeded, but its archive is not there yet")
            self._waiter.check()
            time.sleep(GRACE_POLL_S)
            with self._lock:
                self._slot(task.id, kind).absent_until_s = float("-inf")

    def _is_archive_due(self, task: Task) -> bool:
        return is_archive_due(task, self._api.clock_offset_s or 0.0)

    def lease(
        self, task_id: str, kind: ArchiveKind, archive: Archive, path: str, size: int
    ) -> tuple[Lease, PageCacheMode]:
        """Note that *path* of this version is opened; return how the kernel may cache it."""
        with self._lock:
            slot = self._slot(task_id, kind)
            generation = slot.generation - (slot.version != archive.version)
            mode = self._cache_mode(slot, path, generation)
            slot.opened[path, generation, size] += 1
            return Lease((task_id, kind), path, generation, size), mode

    def release(self, lease: Lease) -> None:
        """Note that the open file is closed."""
        with self._lock:
            slot = self._slots.get(lease.key)
            if slot is None:
                return
            key = (lease.path, lease.generation, lease.size)
            slot.opened[key] -= 1
            if slot.opened[key] <= 0:
                del slot.opened[key]

    def is_outdated(self, lease: Lease) -> bool:
        """Whether a newer version was seen than the one that is leased."""
        slot = self._slots.get(lease.key)
        return slot is not None and slot.generation > lease.generation

    def reported_size(self, task_id: str, kind: ArchiveKind, path: str, size: int) -> int:
        """Return the size to tell of *path*: it does not shrink under who has an older one open."""
        slot = self._slots.get((task_id, kind))
        if slot is None or not slot.generation:
            return size
        with self._lock:
            older = [s for (p, g, s) in slot.opened if p == path and g < slot.generation]
        return max([size, *older])

    def attr_lifetime(self, task_id: str, kind: ArchiveKind, count: int) -> float:
        """Return for how many seconds the kernel may keep what is told of *count* members that lie
        side by side: who walks over them is not to ask for each name again."""
        timeout_s = self._attr_timeout_s
        keep_s = min(timeout_s * (1 + count / KEPT_NAMES), max(timeout_s, MAX_KEEP_S))
        with self._lock:
            slot = self._slot(task_id, kind)
            slot.reported_until_s = max(slot.reported_until_s, self._clock() + keep_s)
        return keep_s

    def replaced(self, task_id: str, kind: ArchiveKind, archive: Archive) -> None:
        """The store no longer has this version: the next who asks gets the new one."""
        archive.forget_index()  # before anybody can look for another
        with self._lock:
            slot = self._slot(task_id, kind)
            if slot.archive is archive:
                slot.archive = None
                self.epoch += 1

    def damaged(self, task_id: str, kind: ArchiveKind, archive: Archive, path: str) -> None:
        """Bytes of *path* did not match what its directory says.

        Wrong ones may be among the kernel's pages: its next open lets go of them. The directory
        may be what is wrong: it is read again.
        """
        with self._lock:
            self._slot(task_id, kind).damaged.add(path)
        self.replaced(task_id, kind, archive)

    def forget(self) -> None:
        """Look for every archive again; open files keep the version they have."""
        with self._lock:
            self._forgetting += 1
            for slot in self._slots.values():
                slot.absent_until_s = float("-inf")
                slot.archive = None
                slot.abandon_load()
            self.epoch += 1
        try:
            if self._engine.disk is not None:
                self._engine.disk.drop_indexes()
        finally:
            with self._lock:
                self._forgetting -= 1

    def _slot(self, task_id: str, kind: ArchiveKind) -> _Slot:
        slot = self._slots.setdefault((task_id, kind), _Slot())
        self._slots.move_to_end((task_id, kind))
        return slot

    def _match_record(self, slot: _Slot, task: Task, kind: ArchiveKind) -> None:
        """A record that tells of another archive than before makes the one in use an old one."""
        identity = (kind.path(task), kind.identity(task))
        if slot.identity != identity:
            slot.archive = None
            slot.abandon_load()
            self.epoch += 1
            slot.identity = identity
            slot.absent_until_s = float("-inf")

    def _place(self, slot: _Slot, archive: Archive) -> None:
        """Put *archive* into use; the kernel's pages are then suspect, once.

        Those of another version are wrong; of those of the same one, what readers left there of
        members that nobody read to their end was known to the archive before, and to no other.
        """
        if slot.version is not None:
            slot.clean = set()
            if slot.version != archive.version:
                slot.generation += 1
                kept_until_s = max(slot.reported_until_s, self._clock() + self._attr_timeout_s)
                slot.settled_s = kept_until_s + SETTLE_S
        slot.version = archive.version
        slot.archive = archive
        self.epoch += 1

    def _cache_mode(self, slot: _Slot, path: str, generation: int) -> PageCacheMode:
        older = any(p == path and g < generation for (p, g, _) in slot.opened)
        # Until the kernel asks again it cuts what it caches at the size of the version before.
        if older or self._clock() < slot.settled_s or generation < slot.generation:
            return PageCacheMode.DIRECT
        if path in slot.damaged:
            slot.damaged.discard(path)
            return PageCacheMode.DROP
        if slot.clean is not None and path not in slot.clean:
            slot.clean.add(path)
            return PageCacheMode.DROP
        return PageCacheMode.KEEP

    def _load(
        self,
        slot: _Slot,
        load_id: object,
        task: Task,
        kind: ArchiveKind,
        path: str,
        identity: tuple[object, ...] | None,
    ) -> Archive:
        archive, is_absent = None, False
        try:
            remote = self._api.open_object(path, task.region)
            expected = task.output_files if kind is ArchiveKind.OUTPUT else None
            open_it = partial(open_archive, remote, kind.root, self._engine, expected, name=path)
            try:
                archive = open_it(identity=identity)
            except StaleObject:  # replaced between its end and its directory: nobody saw either
                archive = open_it(identity=identity)
            if archive.refusal is not None:
                slot.complaint = log_refusal(path, archive.version, archive.refusal, slot.complaint)
            return archive
        except NotFound:
            is_absent = True
            raise
        finally:
            self._finish_load(slot, load_id, archive, is_absent)

    def _finish_load(
        self, slot: _Slot, load_id: object, archive: Archive | None, is_absent: bool
    ) -> None:
        with self._lock:  # in one step: who comes between would load it once more
            if slot.load_id is load_id:
                slot.loading = None
                if is_absent:
                    slot.archive = None
                    slot.absent_until_s = self._clock() + ABSENT_TTL_S - self._attr_timeout_s
                if archive is not None and not _is_refused_again(archive, slot.archive):
                    self._place(slot, archive)
                    self._make_room(slot)
                return
        if archive is not None:
            archive.forget_index()
        with self._lock:
            slot.abandoned_loads -= 1

    def _make_room(self, newest: _Slot) -> None:
        """Let go of the indexes unused longest, without forgetting what the kernel may hold."""
        total = sum(s.archive.member_count for s in self._slots.values() if s.archive)
        for slot in list(self._slots.values()):
            if total <= MAX_MEMBERS:
                return
            if slot is not newest and slot.archive is not None and not slot.opened:
                total -= slot.archive.member_count
                slot.archive = None


def _is_refused_again(archive: Archive, before: Archive | None) -> bool:
    """Whether *archive* is no better than the one of the same version that is in use."""
    is_same_version = before is not None and archive.version == before.version
    return is_same_version and archive.refusal is not None


def is_archive_due(task: Task, clock_offset_s: float = 0.0) -> bool:
    """Whether *task* succeeded so recently that its archive may still be on its way.

    *clock_offset_s* is what the clock that wrote its end is ahead of ours.
    """
    if task.status != "success" or task.end_ns is None:
        return False
    return time.time_ns() + clock_offset_s * 1e9 - task.end_ns < ARCHIVE_GRACE_S * 1e9

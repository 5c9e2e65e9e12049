"""`EventThread`: sees changes of the tasks while a program watches the mount, and sends events.

Without a watch it sends no request and sleeps. A new watch needs a lookup in the mount, so it looks
for watches only after requests. While there is one, it keeps the task cache as young as its TTLs.
`event_start` imports this module once a request has come.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from taskfs.errors import TaskFSError
from taskfs.fuse.archive_arrivals import ArchiveArrivals
from taskfs.fuse.event_operations import EventOperations
from taskfs.fuse.path_codec import decode_name
from taskfs.fuse.watchers import EVERYTHING, Watches
from taskfs.model import LIVE_STATUSES, Task
from taskfs.support.clock import age_clock
from taskfs.support.thread_pool import DaemonPool
from taskfs.tasks.changes import TaskChange, TaskChanges
from taskfs.tasks.live_changes import LiveChanges
from taskfs.tree.context import LIVE, TreeContext
from taskfs.tree.live_nodes import live_attrs
from taskfs.tree.nodes import FILE_MODE, inode
from taskfs.tree.root_node import LATEST
from taskfs.tree.tree import Tree
from taskfs.tree.tree_events import (
    COMPUTATION_TIME,
    EventKind,
    TreeEvent,
    TreeEvents,
    latest_event,
)

log = logging.getLogger(__name__)

# Seconds between two checks of the cache while a program watches: the delay beyond the TTL.
POLL_S: Final = 0.25
# Seconds between two scans for watches.
SCAN_S: Final = 1.0
# Seconds between two scans while there is no watch; fewer if the attr timeout is shorter. A new
# watch is seen within 2 s (V-2).
MAX_SETTLE_S: Final = 1.5
# The pause after a scan, as a share of the time without a request: with an attr timeout of an hour,
# one request causes some 120 scans.
IDLE_SHARE: Final = 0.05
# A scan costs milliseconds of a core where many processes run: at most this share of the time.
SCAN_SHARE: Final = 0.02
# Seconds until the API is asked again after it has failed.
RETRY_S: Final = 5.0
# Seconds between two events of a running `computation_time`.
COMPUTATION_TIME_S: Final = 10.0
# Machines that are asked for their files at the same time.
LIVE_THREADS: Final = 8


class Scanner(Protocol):
    """Finds the watches on the mount."""

    def scan(self) -> Watches:
        """Return the watches of this moment."""
        ...


class Sender(Protocol):
    """Sends events."""

    def send(self, events: Sequence[TreeEvent]) -> None:
        """Send earlier events that are due again, and then *events*, one after another."""
        ...

    def clear(self) -> None:
        """Send no earlier event again."""
        ...

    def close(self) -> None:
        """End the helper process."""
        ...


class EventThread:
    """Sees changes and sends events, in the thread that calls `run`, until the event *stopped*.

    It looks for new watches until *settle_s* after a request. With *sees_watches* false it takes
    every file as watched.
    """

    def __init__(
        self,
        tree: Tree,
        operations: EventOperations,
        scanner: Scanner,
        sender: Sender,
        stopped: threading.Event,
        *,
        settle_s: float,
        sees_watches: bool = True,
    ) -> None:
        self._context: TreeContext = tree.context
        self._operations = operations
        self._scanner = scanner
        self._sender = sender
        self._stopped = stopped
        self._settle_s = settle_s
        self._sees_watches = sees_watches
        self._watches = Watches() if sees_watches else EVERYTHING
        self._scan_after_s = 0.0
        self._changes = TaskChanges(self._context.task_cache)
        self._events = TreeEvents(self._context.views, self._context.lists_live)
        live = self._context.live
        self._live_changes = (
            None if live is None else LiveChanges(live, DaemonPool(LIVE_THREADS, "taskfs-growth"))
        )
        self._ticked_s: dict[str, float] = {}  # the last event of `computation_time`, by task
        self._arrivals = ArchiveArrivals(tree)
        self._newest = ""

    def run(self) -> None:
        """Look for watches, and send events while there are any."""
        try:
            if self._sees_watches:
                self._scan()
            while not self._stopped.is_set():
                self._await_watch()
                if not self._stopped.is_set():
                    self._follow()
        except Exception:
            log.exception("inotify events are not sent any more")
        finally:
            self._sender.close()

    def _await_watch(self) -> None:
        """Wait until a program watches the mount."""
        requested = self._operations.requested
        requested_s = float("-inf")
        while not self._watches and not self._stopped.is_set():
            # The kernel keeps names for the attr timeout: a watch may be set without a request.
            if time.monotonic() >= requested_s + self._settle_s:
                requested.wait()
            now_s = time.monotonic()
            if requested.is_set():
                requested.clear()
                requested_s = now_s
            delay_s = max(min(self._settle_s, MAX_SETTLE_S), self._scan_after_s - now_s)
            if self._stopped.wait(delay_s):
                return
            requested.wait((now_s - requested_s) * IDLE_SHARE - delay_s)
            self._scan()

    def _scan(self) -> None:
        began_s = time.thread_time()
        self._watches = self._scanner.scan()
        # The thread's own time: a scan that waits for a core of a busy machine costs no more.
        cost_s = time.thread_time() - began_s
        self._scan_after_s = time.monotonic() + max(SCAN_S, cost_s / SCAN_SHARE)

    def _follow(self) -> None:
        """Send the events of changes until there is no watch any more."""
        self._operations.tracks_lookups = True
        self._ticked_s.clear()
        self._arrivals.clear()
        self._sender.clear()
        has_begun, logged = self._begin(), ""
        while self._watches and not self._stopped.is_set():
            watched = str(self._watches)
            if watched != logged:
                log.info("inotify events are sent: programs watch %s", watched)
            logged = watched
            delay_s = POLL_S
            try:
                self._changes.update()
                if has_begun:
                    self._send_changes(self._changes.take())
                    self._send_live_changes()
                else:
                    has_begun = self._begin()
            except (TaskFSError, RuntimeError) as exc:  # also where the system has no thread left
                log.info("changes of tasks are not seen: %s", exc)
                delay_s = RETRY_S
            self._sender.send(())
            if self._stopped.wait(delay_s):
                return
            if self._sees_watches and time.monotonic() >= self._scan_after_s:
                self._scan()
        self._operations.tracks_lookups = False
        log.info("no inotify events are sent: no program watches the mount")

    def _begin(self) -> bool:
        """Take the cached state as the one to compare with; False before the first listing."""
        if not self._changes.is_known:
            return False
        self._changes.start()
        self._newest = self._changes.newest
        self._events.start()
        return True

    def _send_changes(self, changes: Sequence[TaskChange]) -> None:
        """Send the watched events of *changes*; the programs that they wake get the new state."""
        events = [
            event
            for event in self._new_events(changes)
            if self._watches.include(*event.watched_inodes)
        ]
        if not events:
            return
        for change in changes:
            task = change.after or change.before
            if task is not None:
                self._context.held_texts.release(f"{task.id}/")
        for event in events:
            if event.kind is EventKind.MODIFY:
                self._context.held_texts.release(event.path)
        self._sender.send(events)

    def _send_live_changes(self) -> None:
        """Send the events of watched files on the machines of running tasks."""
        if self._live_changes is None:
            return
        running = {t.id: t for t in self._changes.unsettled if t.status in LIVE_STATUSES}
        events = []
        for task_id, name, size in self._live_changes.take(running, self._is_live_path_watched):
            path = _live_path(task_id, name)
            attrs = live_attrs(path, running[task_id], FILE_MODE, size)
            events.append(TreeEvent(EventKind.MODIFY, path, attrs))
        if events:
            self._sender.send(events)

    def _is_live_path_watched(self, task_id: str, name: bytes) -> bool:
        return self._watches.include(inode(_live_path(task_id, name)))

    def _new_events(self, changes: Sequence[TaskChange]) -> Iterator[TreeEvent]:
        now_s = age_clock()
        yield from self._events.of_changes(changes)
        for before, after in changes:
            if before is not None and after is not None:
                if after.is_terminated and not before.is_terminated:
                    self._arrivals.begin(after.id, now_s)
            elif before is not None:
                self._arrivals.drop(before.id)
        if self._changes.newest != self._newest:
            yield latest_event(LATEST, self._newest, self._changes.newest)
            self._newest = self._changes.newest
        for task in self._changes.unsettled:
            yield from self._ticks(task, now_s)
        yield from self._arrivals.take(self._watches, now_s)

    def _ticks(self, task: Task, now_s: float) -> Iterator[TreeEvent]:
        """Yield the event of a running `computation_time`, once in COMPUTATION_TIME_S."""
        is_running = (
            not task.is_terminated
            and task.computation_start_ns is not None
            and task.computation_end_ns is None
            and task.computation_seconds is None
        )
        if not is_running:
            self._ticked_s.pop(task.id, None)
        elif now_s - self._ticked_s.setdefault(task.id, now_s) >= COMPUTATION_TIME_S:
            self._ticked_s[task.id] = now_s
            yield TreeEvent(EventKind.MODIFY, f"{task.id}/{COMPUTATION_TIME}")


def _live_path(task_id: str, name: bytes) -> str:
    """Return the path in the tree of a file on the machine of a task."""
    return "/".join(filter(None, (task_id, LIVE, decode_name(name))))

"""`TaskWalk`: notices that a program reads from task to task, and loads the next archives.

A program that reads one file of many tasks (`tail -n1 */outputs/stdout.txt`) needs three round
trips for each: the signed URL, the end of the archive, the member. A task walk goes through the
tasks in the order of the listing or of their names, forwards or backwards. At most twice as many
archives are prefetched as the walk has used, so at most that many are never used.
"""

import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

from taskfs.model import Task
from taskfs.tasks.archive_kind import ArchiveKind

# Neighbouring tasks after which a walk is assumed: three may be neighbours by chance.
MIN_STREAK: Final = 4
# Positions that one step of a walk may cover: tasks of another status in a view, or without an
# archive, are skipped, and several readers may share the walk (`xargs -P`).
MAX_GAP: Final = 4
# Steps against the direction that end a walk; fewer are readers that overtake each other.
MAX_AGAINST: Final = 3
# Prefetch GROWTH times the tasks that the walk has used, and at most MAX_AHEAD.
GROWTH: Final = 2
MAX_AHEAD: Final = 32

Prefetch = Callable[[Sequence[str], ArchiveKind], object]


class _Order:
    """The walk in one order of the tasks: its position, and how many neighbours it has used."""

    def __init__(self) -> None:
        self._position: int | None = None
        self._direction = 1
        self._streak = 0
        self._against = 0
        self._back = 0  # the furthest position against the direction
        self._prefetched = 0  # tasks beyond the position

    def note(self, position: int) -> range:
        """Note that the walk is at *position*; return the positions to prefetch."""
        step = position - self._position if self._position is not None else 0
        if not step or abs(step) > MAX_GAP:
            self._begin(position)
        elif self._streak == 1 or step * self._direction > 0:
            self._direction = 1 if step > 0 else -1
            self._prefetched = max(0, self._prefetched - abs(step))
            self._position, self._streak = position, self._streak + 1
            self._back, self._against = position, 0
        elif (position - self._back) * self._direction < 0:  # further back than any before
            self._back = position
            self._against += 1
            if self._against == MAX_AGAINST:
                self._begin(position)
        return self._next()

    def _begin(self, position: int) -> None:
        self._position, self._streak, self._prefetched = position, 1, 0
        self._back, self._against = position, 0

    def _next(self) -> range:
        ahead = min(MAX_AHEAD, GROWTH * self._streak)
        # Half of it together, so that one request signs the URLs of many archives.
        if self._position is None or self._streak < MIN_STREAK or self._prefetched > ahead // 2:
            return range(0)
        first, self._prefetched = self._prefetched + 1, ahead
        start = self._position + self._direction * first
        return range(start, self._position + self._direction * (ahead + 1), self._direction)


class _Listing:
    """The walks through one listing of tasks, by its order and by name. The caller holds a lock."""

    def __init__(self) -> None:
        self._ids: Sequence[str] = ()
        self._order: Sequence[int] = ()  # the positions in `_ids`, sorted by name
        self._waiting: list[tuple[str, ArchiveKind]] = []  # notes since the listing has changed
        self._walks = {kind: (_Order(), _Order()) for kind in ArchiveKind}

    def note(
        self, ids: Sequence[str], task_id: str, kind: ArchiveKind
    ) -> dict[ArchiveKind, list[str]]:
        """Note that a reader needs an archive of the task; return the tasks to prefetch."""
        wanted: dict[ArchiveKind, list[str]] = {}
        self._waiting.append((task_id, kind))
        if ids is not self._ids:
            # To sort the ids of a large account costs more than a few tasks at random.
            if len(self._waiting) < MIN_STREAK:
                return wanted
            self._ids = ids
            self._order = array("I", sorted(range(len(ids)), key=ids.__getitem__))
        for each, its_kind in self._waiting:
            wanted.setdefault(its_kind, []).extend(self._advance(each, its_kind))
        self._waiting.clear()
        return wanted

    def _advance(self, task_id: str, kind: ArchiveKind) -> list[str]:
        ids, order = self._ids, self._order
        rank = bisect_left(order, task_id, key=ids.__getitem__)
        if len(ids) < MIN_STREAK or rank == len(order) or ids[order[rank]] != task_id:
            return []
        by_name, by_age = self._walks[kind]
        wanted = [ids[order[n]] for n in by_name.note(rank) if 0 <= n < len(ids)]
        return wanted + [ids[n] for n in by_age.note(order[rank]) if 0 <= n < len(ids)]


class TaskWalk:
    """The walks over the tasks of a mount, through the root or through the view that was listed
    last. Safe for concurrent use: the lock guards the state.

    Args:
        known_ids: returns the listed ids, newest first, and sends no request.
        prefetch: loads archives of tasks in the background.
    """

    def __init__(self, known_ids: Callable[[], Sequence[str]], prefetch: Prefetch) -> None:
        self._known_ids = known_ids
        self._prefetch = prefetch
        self._lock = threading.Lock()
        self._last: tuple[str, ArchiveKind] | None = None
        self._account, self._view = _Listing(), _Listing()
        self._view_ids: Sequence[str] = ()

    def note_view(self, ids: Sequence[str]) -> None:
        """Note that a program listed a view of *ids*, which may lie scattered in the account."""
        if self._view_ids != ids:
            self._view_ids = ids

    def note(self, task: Task, kind: ArchiveKind) -> None:
        """Note that a reader needs an archive of *task*."""
        key = (task.id, kind)
        if self._last == key:
            return
        ids = self._known_ids()
        wanted: dict[ArchiveKind, list[str]] = {}
        with self._lock:
            if self._last == key:
                return
            self._last = key
            for listing, listed in ((self._account, ids), (self._view, self._view_ids)):
                for its_kind, chosen in listing.note(listed, *key).items():
                    wanted.setdefault(its_kind, []).extend(chosen)
        for its_kind, chosen in wanted.items():
            if chosen:
                self._prefetch(list(dict.fromkeys(chosen)), its_kind)

"""`TaskWalk`: notices that a program reads from task to task, and loads the next archives.

A program that reads one file of many tasks (`tail -n1 */outputs/stdout.txt`) needs three round
trips for each: the signed URL, the end of the archive, the member. A task walk goes through the
tasks in the order of the listing or of their names, forwards or backwards. At most twice as many
archives are prefetched as the walk has used, so at most that many are never used.
"""

import threading
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise, takewhile
from typing import Final, NamedTuple

from taskfs.model import Task
from taskfs.tasks.archive_kind import ArchiveKind

# After this many neighbouring tasks a walk is assumed: three may be neighbours by chance.
MIN_STREAK: Final = 4
# Positions that one step of a walk may cover: tasks of another status in a view, or without an
# archive, are skipped, and several readers may share the walk (`xargs -P`).
MAX_GAP: Final = 4
# After this many steps against its direction a walk ends. Fewer occur where readers overtake each
# other.
MAX_AGAINST: Final = 3
# Prefetch the archives of GROWTH times the tasks that the walk has used, and at most MAX_AHEAD.
GROWTH: Final = 2
MAX_AHEAD: Final = 32
# Members of which walks are followed at once: the files that a program reads in each task.
MAX_MEMBERS: Final = 8
# Prefetch a member of as many tasks as the walk has used. Their archives are there: half of the
# prefetched ones are always ahead, because more are requested once half is used.
MEMBER_GROWTH: Final = 1


class Walked(NamedTuple):
    """The archive, or the member of it, that a walk uses in each task."""

    kind: ArchiveKind
    path: str = ""  # of the member; empty for the archive


class _Note(NamedTuple):
    """One use of a task by a reader; *max_ahead* is how many tasks to prefetch at most."""

    task_id: str
    walked: Walked
    max_ahead: int


Prefetch = Callable[[Sequence[str], Walked], object]


class _Order:
    """The walk in one order of the tasks: its position, and how many neighbours it has used."""

    def __init__(self, growth: int = GROWTH) -> None:
        self._growth = growth
        self._position: int | None = None
        self._direction = 1
        self._streak = 0
        self._against = 0
        self._back = 0  # the furthest position against the direction
        self._prefetched = 0  # tasks beyond the position

    def note(self, position: int, max_ahead: int) -> range:
        """Note that the walk is at *position*; return the at most *max_ahead* ones to prefetch."""
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
        return self._next(max_ahead)

    def _begin(self, position: int) -> None:
        self._position, self._streak, self._prefetched = position, 1, 0
        self._back, self._against = position, 0

    def _next(self, max_ahead: int) -> range:
        ahead = min(max_ahead, self._growth * self._streak)
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
        self._waiting: list[_Note] = []  # since the listing has changed
        self._archives = {Walked(kind): (_Order(), _Order()) for kind in ArchiveKind}
        self._members: OrderedDict[Walked, tuple[_Order, _Order]] = OrderedDict()

    def note(self, ids: Sequence[str], note: _Note) -> dict[Walked, list[str]]:
        """Note that a reader uses a task; return the tasks to prefetch."""
        wanted: dict[Walked, list[str]] = {}
        if not self._is_waiting(note):
            self._waiting.append(note)
        if ids is not self._ids:
            # To sort the ids of a large account costs more than a few tasks at random.
            if sum(a.task_id != b.task_id for a, b in pairwise(self._waiting)) < MIN_STREAK - 1:
                return wanted
            self._ids = ids
            self._order = array("I", sorted(range(len(ids)), key=ids.__getitem__))
        for each in self._waiting:
            wanted.setdefault(each.walked, []).extend(self._advance(each))
        self._waiting.clear()
        return wanted

    def _is_waiting(self, note: _Note) -> bool:
        """Whether a note of the same use waits, with no note of another task after it."""
        run = takewhile(lambda each: each.task_id == note.task_id, reversed(self._waiting))
        return any(each.walked == note.walked for each in run)

    def _advance(self, note: _Note) -> list[str]:
        ids, order, task_id = self._ids, self._order, note.task_id
        rank = bisect_left(order, task_id, key=ids.__getitem__)
        if len(ids) < MIN_STREAK or rank == len(order) or ids[order[rank]] != task_id:
            return []
        by_name, by_age = self._orders(note.walked)
        places = by_name.note(rank, note.max_ahead)
        wanted = [ids[order[n]] for n in places if 0 <= n < len(ids)]
        places = by_age.note(order[rank], note.max_ahead)
        return wanted + [ids[n] for n in places if 0 <= n < len(ids)]

    def _orders(self, walked: Walked) -> tuple[_Order, _Order]:
        if not walked.path:
            return self._archives[walked]
        new = _Order(MEMBER_GROWTH), _Order(MEMBER_GROWTH)
        orders = self._members.setdefault(walked, new)
        self._members.move_to_end(walked)
        if len(self._members) > MAX_MEMBERS:
            self._members.popitem(last=False)
        return orders


class TaskWalk:
    """The walks over the tasks of a mount, through the root or through the view that was listed
    last. Safe for concurrent use: the lock guards the state.

    Args:
        known_ids: returns the listed ids, newest first, and sends no request.
        prefetch: loads archives or members of tasks in the background.
    """

    def __init__(self, known_ids: Callable[[], Sequence[str]], prefetch: Prefetch) -> None:
        self._known_ids = known_ids
        self._prefetch = prefetch
        self._lock = threading.Lock()
        self._last: tuple[str, ArchiveKind] | None = None
        self._account, self._view = _Listing(), _Listing()
        self._view_ids: Sequence[str] = ()

    def note_view(self, ids: Sequence[str]) -> None:
        """Note that a program has listed *ids*, which may lie scattered in the account."""
        if self._view_ids != ids:
            self._view_ids = ids

    def note(self, task: Task, kind: ArchiveKind) -> None:
        """Note that a reader needs an archive of *task*."""
        key = (task.id, kind)
        if self._last == key:  # without the lock, because most calls end here
            return
        with self._lock:
            if self._last == key:
                return
            self._last = key
        self._note(_Note(task.id, Walked(kind), MAX_AHEAD))

    def note_member(self, task_id: str, walked: Walked, max_ahead: int) -> None:
        """Note that a reader has read a member of the task, and not of the same task before."""
        self._note(_Note(task_id, walked, max_ahead))

    def _note(self, note: _Note) -> None:
        ids = self._known_ids()
        wanted: dict[Walked, list[str]] = {}
        with self._lock:
            for listing, listed in ((self._account, ids), (self._view, self._view_ids)):
                for walked, chosen in listing.note(listed, note).items():
                    wanted.setdefault(walked, []).extend(chosen)
        for walked, chosen in wanted.items():
            if chosen:
                self._prefetch(list(dict.fromkeys(chosen)), walked)

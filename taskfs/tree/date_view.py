"""`.by-date`: a link to each task, with a name that has its time, simulator and status."""

import sys
import time
from collections.abc import Iterable, Sequence, Set
from typing import Final, NamedTuple

from taskfs.errors import NotFound
from taskfs.model import Task
from taskfs.tasks.packed_ids import PackedIds
from taskfs.tasks.task_cache import TaskCache
from taskfs.tasks.task_groups import listed_rows
from taskfs.tasks.task_rows import placeholders
from taskfs.tree.nodes import DIRECTORY_MODE, LINK_MODE, Attrs, Directory, Entry, Link, Node, inode
from taskfs.tree.task_entries import TaskEntries
from taskfs.tree.view_nodes import view_name

BY_DATE: Final = ".by-date"
ID_LENGTH: Final = 8  # letters of the id in a name: enough for commands, which take prefixes
TIME_FORMAT: Final = "%Y-%m-%dT%H-%M"
_MINUTE_NS: Final = 60 * 10**9
_BEGINNING: Final = f"substr(id, 1, {ID_LENGTH})"


class _Row(NamedTuple):
    """The columns of a task that make the name of its link, and when it last changed."""

    id: str
    created_ns: int
    simulator: str
    status: str
    changed_ns: int

    def name(self, id_length: int = ID_LENGTH) -> str:
        created = time.localtime(self.created_ns / 1e9)
        words = (
            time.strftime(TIME_FORMAT, created),
            view_name(self.simulator)[:64],
            view_name(self.status)[:64],
            self.id[:id_length],
        )
        return "_".join(words)


_COLUMNS: Final = "id, created, simulator, status, changed"


def link_name(task: Task) -> str:
    """Return `2026-11-28T21-31_openfoam_failed_<id>`, with the local time of the creation."""
    return _Row(task.id, task.create_ns or 0, task.simulator or "", task.status, 0).name()


class DateViewNode(Directory):
    """The links of all tasks, newest first."""

    def __init__(self, names: "DateNames", began_ns: int) -> None:
        super().__init__(BY_DATE)
        self._names = names
        self._began_ns = began_ns

    def attrs(self) -> Attrs:
        return Attrs(
            DIRECTORY_MODE, inode(self.path), mtime_ns=self._began_ns, ctime_ns=self._began_ns
        )

    def lookup(self, name: str) -> Node:
        row = self._names.find(name)
        if row is None:
            raise NotFound(f"there is no {self.child_path(name)}")
        return Link(self.child_path(name), f"../{row.id}", row.changed_ns)

    def children(self) -> Iterable[Entry]:
        ids = self._names.ids()
        shared = self._names.shared_beginnings()

        def entries(batch: Sequence[str]) -> list[Entry]:
            return [self.entry(name, LINK_MODE) for name in self._names.names(batch, shared)]

        return TaskEntries(ids, entries)


class DateNames:
    """The names of the links, read from the database. Safe for concurrent use."""

    def __init__(self, task_cache: TaskCache) -> None:
        self._task_cache = task_cache

    def ids(self) -> PackedIds:
        """Return the tasks, newest first."""
        return self._task_cache.ids()

    def shared_beginnings(self) -> Set[str]:
        """Return the beginnings of ids that several tasks share: their names may be equal."""
        statement = f"SELECT {_BEGINNING} FROM {{}} GROUP BY 1 HAVING count(*) > 1"
        rows = listed_rows(self._task_cache, statement, ())
        return {beginning for (beginning,) in rows}

    def names(self, ids: Sequence[str], shared: Set[str]) -> list[str]:
        """Return the link names of *ids*; of a task that is gone, a name without its fields."""
        rows = {row.id: row for row in self._select(f"id IN ({placeholders(ids)})", ids)}
        found = [rows.get(task_id, _Row(task_id, 0, "", "", 0)) for task_id in ids]
        return [
            self._name_among_equals(row) if row.id[:ID_LENGTH] in shared else row.name()
            for row in found
        ]

    def find(self, name: str) -> _Row | None:
        """Return the row of the task whose link has this *name*."""
        words = name.split("_")
        # The id is the last word, unless it has underscores itself.
        ends = ["_".join(words[count:]) for count in range(len(words) - 1, 0, -1)]
        rows = (
            row
            for minute_ns in _minutes_of(words[0])
            for end in filter(None, ends)
            for row in self._created_in(minute_ns, end[:ID_LENGTH])
        )
        return next((row for row in rows if self._name_among_equals(row) == name), None)

    def _name_among_equals(self, row: _Row) -> str:
        """Return the name of the task's link: with the whole id if a newer task has the same."""
        name = row.name()
        minute_ns = row.created_ns - row.created_ns % _MINUTE_NS
        others = self._created_in(minute_ns, row.id[:ID_LENGTH])
        equals = (each for each in others if each.name() == name)
        return name if next(equals, row).id == row.id else row.name(len(row.id))

    def _created_in(self, minute_ns: int, beginning: str) -> list[_Row]:
        """Return the tasks created in a minute whose ids have this *beginning*, newest first.

        The `+` makes SQLite search by the id: a script may create a thousand tasks in a minute.
        """
        where = "id >= ? AND id < ? AND +created >= ? AND +created < ?"
        ids = (beginning, beginning + chr(sys.maxunicode))
        return self._select(where, (*ids, minute_ns, minute_ns + _MINUTE_NS))

    def _select(self, where: str, values: Sequence[object]) -> list[_Row]:
        statement = f"SELECT {_COLUMNS} FROM {{}} WHERE {where} ORDER BY created DESC, seq DESC"
        try:
            return [_Row(*row) for row in listed_rows(self._task_cache, statement, values)]
        except UnicodeEncodeError:  # the kernel's name of a file may not be UTF-8
            return []


def _minutes_of(minute: str) -> list[int]:
    """Return when the *minute* in a link's name began, in ns: two where clocks were set back."""
    try:
        fields = time.strptime(minute, TIME_FORMAT)
        times = {time.mktime((*fields[:8], is_summer)) for is_summer in (0, 1)}
    except (ValueError, OverflowError):
        return []
    return [int(moment) * 10**9 for moment in sorted(times)]

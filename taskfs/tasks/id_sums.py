"""Lists of ids from the indexes of the tasks' database, each compared with a count and a checksum.

SQLite has no checksums, so an index with a damaged byte lists a wrong id, or leaves one out. The
table `sums` has the number of tasks of each group and the sum of the checksums of their ids; it
changes with each task.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from taskfs.tasks.database_file import DamagedError
from taskfs.tasks.packed_ids import SEPARATOR, PackedIds
from taskfs.tasks.selection import Selection
from taskfs.tasks.task_rows import BATCH, placeholders, row_checksum, saved_rows

# A group: a column of `tasks` and its value, or two empty texts for all tasks.
Group = tuple[str, str]

ALL: Final[Group] = ("", "")
NOTHING_LISTED: Final = -1  # a `max_seq` before the first listing


class IdSum(NamedTuple):
    """How many tasks there are, and the sum of the CRC-32 of their ids."""

    tasks: int = 0
    digest: int = 0


class SumChanges:
    """Tasks that join and leave groups within one transaction. Not safe for concurrent use."""

    def __init__(self) -> None:
        self._changes: dict[Group, IdSum] = {}

    def add(self, task_id: str, fields: Sequence[Any], sign: int = 1) -> None:
        """Note that the task with these *fields* (`SavedRow.group`) comes, or goes if *sign* is
        -1."""
        digest = sign * zlib.crc32(task_id.encode())
        for group in _memberships(fields):
            count, total = self._changes.get(group, IdSum())
            self._changes[group] = IdSum(count + sign, total + digest)

    def store(self, connection: sqlite3.Connection) -> None:
        """Write the new sums."""
        rows = []
        for group, change in self._changes.items():
            before = read_sum(connection, [group])
            row = (*group, before.tasks + change.tasks, before.digest + change.digest)
            rows.append((*row, row_checksum(row)))
        connection.executemany("REPLACE INTO sums VALUES (?, ?, ?, ?, ?)", rows)


def _memberships(fields: Sequence[Any]) -> list[Group]:
    _, finished, status, project, simulator = fields
    return [
        ALL,
        ("finished", str(finished)),
        ("status", status),
        ("project", project),
        ("simulator", simulator),
    ]


def read_sum(connection: sqlite3.Connection, groups: Iterable[Group]) -> IdSum:
    """Return the sum over *groups*; raise DamagedError for a damaged row."""
    count, digest = 0, 0
    for group in groups:
        statement = "SELECT * FROM sums WHERE kind = ? AND value = ?"
        for *row, checksum in connection.execute(statement, group).fetchall():
            if row_checksum(tuple(row)) != checksum:
                raise DamagedError(f"the number of tasks of {group!r} is damaged")
            count, digest = count + row[2], digest + row[3]
    return IdSum(count, digest)


def groups_of(selection: Selection) -> list[list[Group]]:
    """Return the conditions of *selection*, each as groups of which one has the task."""
    conditions: list[list[Group]] = []
    if selection.project is not None:
        conditions.append([("project", selection.project)])
    if selection.statuses:
        conditions.append([("status", status) for status in dict.fromkeys(selection.statuses)])
    if selection.finished_only:
        conditions.append([("finished", "1")])
    return conditions or [[ALL]]


def list_ids(
    connection: sqlite3.Connection,
    selection: Selection,
    column: str = "",
    values: Sequence[str] = (),
) -> PackedIds:
    """Return the ids of *selection* whose *column* has one of *values*, newest first.

    Raises:
        DamagedError: an id is wrong or missing.
    """
    with _snapshot(connection):
        if selection.last is not None:
            return _list_last(connection, selection, column, values)
        conditions = groups_of(selection)
        if column:
            conditions = [each for each in conditions if each != [ALL]]
            conditions.append([(column, value) for value in values])
        first, *others = (_list_groups(connection, each, selection.max_seq) for each in conditions)
    if not others:
        return first
    chosen = set(first).intersection(*others)
    return PackedIds(SEPARATOR.join(task_id for task_id in first if task_id in chosen))


def _list_groups(
    connection: sqlite3.Connection, groups: Sequence[Group], max_seq: int | None
) -> PackedIds:
    """Return the tasks of *groups*, which are of one kind."""
    if not groups:  # of a view's group without tasks
        return PackedIds()
    values = [value for _, value in groups]
    condition = f"{groups[0][0]} IN ({placeholders(values)})" if groups[0] != ALL else "? = ''"
    listed, later = "1", PackedIds()
    if max_seq is not None:
        listed = f"seq <= {max_seq}"
    ids = _join(
        connection,
        f"SELECT id FROM tasks WHERE {condition} AND {listed} "
        "ORDER BY created DESC, seq DESC LIMIT -1",
        values,
    )
    if max_seq == NOTHING_LISTED:
        return ids
    if max_seq is not None:
        later = _join(
            connection, f"SELECT id FROM tasks WHERE {condition} AND seq > {max_seq}", values
        )
    found = IdSum(len(ids) + len(later), ids.digest + later.digest)
    if found != read_sum(connection, groups):
        raise DamagedError("an index of the tasks is damaged")
    return ids


def _list_last(
    connection: sqlite3.Connection, selection: Selection, column: str, values: Sequence[str]
) -> PackedIds:
    """Return the newest tasks; each is compared with its row, because no sum counts them."""
    source, bound = selection.source()
    condition = f"{column} IN ({placeholders(values)})" if column else "1"
    ids = _join(
        connection,
        f"SELECT id FROM {source} WHERE {condition} ORDER BY created DESC, seq DESC LIMIT -1",
        (*bound, *values),
    )
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        if len(saved_rows(connection, batch)) < len(batch):
            raise DamagedError("an index of the tasks is damaged")
    return ids


def _join(connection: sqlite3.Connection, statement: str, values: Sequence[Any]) -> PackedIds:
    # LIMIT -1 keeps SQLite from dropping the ORDER BY of *statement*, which gives the order here.
    joined = f"SELECT group_concat(id, '{SEPARATOR}') FROM ({statement})"
    return PackedIds(connection.execute(joined, values).fetchone()[0] or "")


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Have all queries see the same state, while another process writes."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:  # SQLite ends it after some errors
            connection.execute("ROLLBACK")


def list_values(
    connection: sqlite3.Connection, selection: Selection, column: str
) -> dict[str, int]:
    """Return the values that *column* has in *selection*, that of the newest task first, each with
    the time when a task of the group last changed; an empty text stands for null.

    Raises:
        DamagedError: a value is wrong or missing.
    """
    with _snapshot(connection):
        found = dict(connection.execute(*_values_statement(column, selection)).fetchall())
        statement = "SELECT value FROM sums WHERE kind = ? AND count > 0"
        saved = {value for (value,) in connection.execute(statement, (column,))}
        (last_seq,) = connection.execute("SELECT max(seq) FROM tasks").fetchone()
    is_all = selection.is_unfiltered and (
        selection.max_seq is None or selection.max_seq >= (last_seq or 0)
    )
    if found.keys() - saved or (is_all and saved - found.keys()):
        raise DamagedError(f"the index by {column} is damaged")
    return found


def _values_statement(column: str, selection: Selection) -> tuple[str, tuple[Any, ...]]:
    """Return the query of `list_values`.

    For all tasks, the indexes have the next value and the newest task of each; the tasks that a
    filter selects are read.
    """
    if not selection.is_unfiltered:
        source, bound = selection.source()
        return (
            f"SELECT {column}, max(changed) FROM {source} GROUP BY {column} "
            "ORDER BY max(created) DESC, max(seq) DESC",
            bound,
        )
    where, bound = selection.where()
    newest = f"FROM tasks WHERE {column} = value AND {where} ORDER BY"
    return (
        f"WITH RECURSIVE groups(value) AS (SELECT min({column}) FROM tasks UNION ALL "
        f"SELECT (SELECT min({column}) FROM tasks WHERE {column} > value) FROM groups "
        "WHERE value IS NOT NULL) SELECT value, changed FROM (SELECT value, "
        f"(SELECT changed {newest} changed DESC LIMIT 1) AS changed, "
        f"(SELECT created {newest} created DESC LIMIT 1) AS created, "
        f"(SELECT seq {newest} created DESC, seq DESC LIMIT 1) AS seq FROM groups) "
        "WHERE changed IS NOT NULL ORDER BY created DESC, seq DESC",
        bound * 3,
    )

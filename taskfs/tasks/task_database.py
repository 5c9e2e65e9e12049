"""`TaskDatabase`: the tasks of one account, as they were last seen, in SQLite.

A row of `tasks` holds the fields by which tasks are listed and grouped, a row of `records` all
others. Each row has a checksum, because SQLite itself has none. No key and no signature is written.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from taskfs.model import Task
from taskfs.tasks.database_file import DamagedError, DatabaseFile
from taskfs.tasks.id_sums import SumChanges, groups_of, list_ids, list_values, read_sum
from taskfs.tasks.packed_ids import PackedIds
from taskfs.tasks.selection import Scope, Selection
from taskfs.tasks.task_rows import (
    BATCH,
    SavedRow,
    data_version,
    digest_of,
    final_ids,
    is_unchanged,
    pack_record,
    placeholders,
    row_checksum,
    saved_rows,
    unpack_record,
)

# Times that the database may lose its tasks, because its file is damaged or removed, during one
# query or listing.
MAX_LOSSES: Final = 3


class Changes(NamedTuple):
    """The effect of a `put`, as ids: the tasks that changed, those whose status did, and those that
    are final and were not replaced."""

    changed: frozenset[str] = frozenset()
    status_changed: frozenset[str] = frozenset()
    final: frozenset[str] = frozenset()


class TaskDatabase:
    """The tasks of one account. Safe for concurrent use, by threads and by processes.

    No method raises for a fault of the file: see `DatabaseFile`.
    """

    def __init__(self, file: DatabaseFile) -> None:
        self._file = file
        self._own_changes = 0
        self._own_members = 0  # tasks of this process that came or went

    @property
    def loss_text(self) -> str:
        """The text of the error about tasks that were lost while they were read, with its fix."""
        if self._file.is_read_only:
            return (
                "the saved tasks are damaged: save them again with `taskfs list --all`, "
                "without --offline, and mount again"
            )
        return "the saved tasks are lost again and again: choose another --cache-dir"

    @property
    def generation(self) -> int:
        """A number that grows when the content was lost."""
        return self._file.generation

    @property
    def version(self) -> tuple[int, int, int]:
        """A value that changes when a task is added, removed or changes its group in a view."""
        other = self._file.run(data_version)
        return self._file.generation, self._own_changes, other

    def members_version(self, selection: Selection) -> tuple[int, int, int]:
        """Return a value that changes when a task joins or leaves *selection*."""
        generation, changes, other = self.version
        return generation, self._own_members if selection.is_unfiltered else changes, other

    def close(self) -> None:
        """Close the file; later calls find and store nothing."""
        self._file.close()

    def get(self, task_id: str) -> Task | None:
        """Return the task as it was last seen, or None."""
        try:
            return next(iter(self.load([task_id])), None)
        except UnicodeEncodeError:  # the kernel's name of a file may not be UTF-8
            return None

    def tasks(self, selection: Selection) -> list[Task]:
        """Return the selected tasks, newest first."""
        return list(self.iterate(selection))

    def iterate(self, selection: Selection) -> Iterator[Task]:
        """Yield the selected tasks, newest first; a batch of them is in memory at a time."""
        ids = self.ids(selection)
        for start in range(0, len(ids), BATCH):
            yield from self.load(ids[start : start + BATCH])

    def load(self, ids: Sequence[str]) -> list[Task]:
        """Return those of *ids*, at most `BATCH`, that are known, in the same order."""
        statement = f"SELECT id, packed, checksum FROM records WHERE id IN ({placeholders(ids)})"

        def unpack(connection: sqlite3.Connection) -> dict[str, Task]:
            rows = connection.execute(statement, ids).fetchall()
            found = {row[0]: unpack_record(*row) for row in rows}
            if len(found) < len(ids) and saved_rows(connection, [i for i in ids if i not in found]):
                raise DamagedError("a task has no record")
            return found

        found = self._file.run(unpack)
        return [found[task_id] for task_id in ids if task_id in found]

    def ids(self, selection: Selection, column: str = "", values: Sequence[str] = ()) -> PackedIds:
        """Return the ids of the selected tasks whose *column* has one of *values*, newest first."""
        return self._file.run(lambda c: list_ids(c, selection, column, values))

    def values(self, selection: Selection, column: str) -> dict[str, int]:
        """Return the values that *column* has in *selection*, see `list_values`."""
        return self._file.run(lambda c: list_values(c, selection, column))

    def unfinished(self, project: str | None) -> list[Task]:
        """Return the unfinished tasks of *project*, or of all projects."""
        rows = self._all("SELECT id FROM tasks WHERE finished = 0", ())
        ids = [task_id for (task_id,) in rows]
        return [
            task
            for start in range(0, len(ids), BATCH)
            for task in self.load(ids[start : start + BATCH])
            if project in (None, task.project)
        ]

    def count(self, scope: Scope, max_seq: int | None = None) -> int:
        """Return how many tasks *scope* has, of those with numbers up to *max_seq*."""
        conditions = groups_of(scope.selection)
        if len(conditions) == 1 and max_seq is None:
            return self._file.run(lambda c: read_sum(c, conditions[0]).tasks)
        where, values = scope.selection._replace(max_seq=max_seq).where()
        row = self._one(f"SELECT count(*) FROM tasks WHERE {where}", values)
        return int(row[0]) if row else 0

    def count_finished(self) -> int:
        """Return how many finished tasks are saved."""
        return self._file.run(lambda c: read_sum(c, [("finished", "1")]).tasks)

    def position(self, task_id: str, scope: Scope) -> int | None:
        """Return how many tasks of *scope* are listed before the task.

        None if the task is unknown or outside the scope.
        """
        where, values = scope.selection.where()
        statement = f"SELECT created, seq FROM tasks WHERE id = ? AND {where}"
        row = self._one(statement, (task_id, *values))
        if row is None:
            return None
        statement = f"SELECT count(*) FROM tasks WHERE {where} AND (created, seq) > (?, ?)"
        found = self._one(statement, (*values, *row))
        return int(found[0]) if found else None

    def newest_ns(self, selection: Selection) -> int:
        """Return the creation time of the newest selected task, or 0."""
        where, values = selection.where()
        row = self._one(
            f"SELECT created FROM tasks WHERE {where} ORDER BY created DESC, seq DESC LIMIT 1",
            values,
        )
        return int(row[0]) if row else 0

    def finished_times(self, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return when the finished ones of *ids*, at most `BATCH`, were created and when they last
        changed, in ns."""
        rows = self._file.run(lambda c: saved_rows(c, ids))
        return {i: (row.created, row.group[0]) for i, row in rows.items() if row.is_finished}

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return those of *ids* that are known."""
        return set(self._file.run(lambda c: saved_rows(c, ids)))

    def select(self, selection: Selection, ids: Sequence[str]) -> set[str]:
        """Return those of *ids* that *selection* has."""
        source, values = selection.source()
        found: set[str] = set()
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            statement = f"SELECT id FROM {source} WHERE id IN ({placeholders(batch)})"
            found.update(row[0] for row in self._all(statement, (*values, *batch)))
        return found

    def last_seq(self) -> int:
        """Return the number of the task that was added last."""
        row = self._one("SELECT max(seq) FROM tasks", ())
        return int(row[0] or 0) if row else 0

    def put(self, tasks: Sequence[Task], seq: int | None = None) -> Changes:
        """Store the new and the changed ones of *tasks*, which are sorted newest first.

        New tasks are numbered downwards from *seq*; by default above all others. The number orders
        tasks with equal creation times.

        A terminal status is final: an unfinished record does not replace a finished one.
        """
        if not tasks or self._file.is_read_only:
            return Changes()
        digests = {task.id: digest_of(task) for task in tasks}
        unique = list({task.id: task for task in tasks}.values())

        def put_changed(connection: sqlite3.Connection) -> Changes:
            version = data_version(connection)
            known = saved_rows(connection, list(digests))
            if all(is_unchanged(task, digests[task.id], known) for task in unique):
                return Changes(final=final_ids(unique, known))

            def put(current: sqlite3.Connection) -> Changes:
                if current is not connection or data_version(current) != version:
                    known.clear()  # another mount has written since
                    known.update(saved_rows(current, list(digests)))
                return self._put(current, unique, digests, known, seq)

            return self._file.write(put)

        return self._file.run(put_changed)

    def _put(
        self,
        connection: sqlite3.Connection,
        tasks: list[Task],
        digests: dict[str, bytes],
        known: dict[str, SavedRow],
        seq: int | None,
    ) -> Changes:
        (last,) = connection.execute("SELECT max(seq) FROM tasks").fetchone()
        seq = (last or 0) + len(tasks) if seq is None else seq
        rows, records, sums = [], [], SumChanges()
        changed, status_changed, regrouped, members = set(), set(), False, 0
        for number, task in enumerate(tasks):
            digest = digests[task.id]
            if is_unchanged(task, digest, known):
                continue
            before = known.get(task.id)
            row = (
                task.id,
                task.create_ns or 0,
                before.seq if before else seq - number,
                task.last_change_ns,
                int(task.is_terminated),
                task.status,
                task.project or "",
                task.simulator or "",
                digest,
            )
            rows.append((*row, row_checksum(row)))
            records.append(pack_record(task))
            if before is not None:
                changed.add(task.id)
                if before.status != task.status:
                    status_changed.add(task.id)
            else:
                members += 1
            regrouped = regrouped or before is None or before.group != row[3:8]
            if before is None or before.group[1:] != row[4:8]:
                if before is not None:
                    sums.add(task.id, before.group, -1)
                sums.add(task.id, row[3:8])
        connection.executemany(f"REPLACE INTO tasks VALUES ({placeholders(range(10))})", rows)
        connection.executemany("REPLACE INTO records VALUES (?, ?, ?)", records)
        sums.store(connection)
        self._own_changes += regrouped
        self._own_members += members
        return Changes(frozenset(changed), frozenset(status_changed), final_ids(tasks, known))

    def remove(self, ids: Iterable[str]) -> None:
        """Remove tasks that no longer exist."""
        gone = [] if self._file.is_read_only else list(ids)

        def delete(connection: sqlite3.Connection) -> int:
            known, sums = saved_rows(connection, gone), SumChanges()
            for task_id, row in known.items():
                sums.add(task_id, row.group, -1)
            sums.store(connection)
            rows = [(task_id,) for task_id in known]
            connection.executemany("DELETE FROM tasks WHERE id = ?", rows)
            connection.executemany("DELETE FROM records WHERE id = ?", rows)
            return len(rows)

        if gone and self.known(gone):
            removed = bool(self._file.write(delete))
            self._own_changes += removed
            self._own_members += removed

    def difference(self, scope: Scope) -> int | None:
        """Return by how much the API's `total_size` exceeds the number of tasks that a whole
        listing of *scope* showed; None if there was no whole listing."""
        row = self._one(
            "SELECT difference FROM listings WHERE project = ? AND status = ?", scope.key
        )
        return int(row[0]) if row else None

    def set_difference(self, scope: Scope, difference: int, generation: int) -> None:
        """Note that there was a whole listing of *scope*; see `difference`.

        Not if some of it was lost: the `generation` was *generation* before it was stored.
        """
        if self.difference(scope) == difference:
            return

        def note(connection: sqlite3.Connection) -> None:
            if self.generation == generation:
                values = (*scope.key, difference)
                connection.execute("REPLACE INTO listings VALUES (?, ?, ?)", values)

        self._file.write(note)

    def drop_difference(self, scope: Scope) -> None:
        """Note that the saved tasks of *scope* may have a gap, so that no listing shows them."""
        self._file.write(
            lambda c: c.execute("DELETE FROM listings WHERE project = ? AND status = ?", scope.key)
        )

    def select_ids(
        self, where: str, values: Sequence[Any], condition: Callable[[str], bool]
    ) -> list[str]:
        """Return the ids that fulfil both conditions."""
        statement = f"SELECT id FROM tasks WHERE {where}"
        return self._file.run(
            lambda c: [row[0] for row in c.execute(statement, values) if condition(row[0])]
        )

    def rows(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self._all(statement, values)

    def _one(self, statement: str, values: Sequence[Any]) -> tuple[Any, ...] | None:
        found = self._all(statement, values)
        return found[0] if found else None

    def _all(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._file.run(lambda c: c.execute(statement, values).fetchall())

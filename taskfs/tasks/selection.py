"""`Scope` and `Selection`: the tasks that one request, or one mount, lists."""

from typing import Any, NamedTuple


class Scope(NamedTuple):
    """The tasks that one listing of the API shows: all by default."""

    project: str | None = None
    status: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The scope in the database, where an empty text stands for None."""
        return self.project or "", self.status or ""

    @property
    def selection(self) -> "Selection":
        """The tasks of the scope among those that are saved."""
        return Selection(self.project, (self.status,) if self.status else ())


class Selection(NamedTuple):
    """The tasks of a mount's listing among those that are saved: all by default.

    `max_seq` is the number of the task that was added last when the listing was made: a task that
    was asked for by its name later is not in the listing. `last` is the number of tasks at most.
    """

    project: str | None = None
    statuses: tuple[str, ...] = ()
    max_seq: int | None = None
    last: int | None = None
    finished_only: bool = False

    @property
    def has_listing(self) -> bool:
        """Whether a listing was whole once; before that no task is listed."""
        return self.max_seq != -1

    @property
    def is_unfiltered(self) -> bool:
        """Whether no change of a task brings it to the selection or out of it."""
        return self._replace(max_seq=None) == Selection()

    def where(self) -> tuple[str, tuple[Any, ...]]:
        """Return the condition of a query of the table `tasks`, without `last`, and its values."""
        terms: list[str] = []
        values: list[Any] = []
        if self.project is not None:
            terms.append("project = ?")
            values.append(self.project)
        if self.statuses:
            terms.append(f"status IN ({', '.join('?' * len(self.statuses))})")
            values += self.statuses
        if self.max_seq is not None:
            terms.append("seq <= ?")
            values.append(self.max_seq)
        if self.finished_only:
            terms.append("finished = 1")
        return " AND ".join(terms) or "1", tuple(values)

    def source(self) -> tuple[str, tuple[Any, ...]]:
        """Return a table expression of the selected rows, and its values."""
        where, values = self.where()
        if self.last is None:
            return f"(SELECT * FROM tasks WHERE {where})", values
        return (
            f"(SELECT * FROM tasks WHERE {where} ORDER BY created DESC, seq DESC LIMIT ?)",
            (*values, self.last),
        )

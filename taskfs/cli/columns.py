"""The columns of the task tables, and which of them a narrow terminal shows."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from taskfs.support.formatting import format_elapsed, format_local_time, format_money, format_size

if TYPE_CHECKING:
    from taskfs.model import Task

GAP: Final = 2  # blanks between two columns


class Column(NamedTuple):
    """A column title and its rank.

    A narrow terminal drops the column with the lowest rank first; it never drops rank 0.
    """

    title: str
    rank: int = 0


ID: Final = Column("ID")
STATUS: Final = Column("Status")
SIMULATOR: Final = Column("Simulator", 1)
COST: Final = Column("Cost (US$)", 2)
SUBMITTED: Final = Column("Submitted", 3)
MACHINE: Final = Column("Machine", 4)
COMPUTATION_TIME: Final = Column("Computation time", 5)
QUEUE: Final = Column("Queue", 6)
LAST_WRITE: Final = Column("Last write", 7)


class TaskColumn(NamedTuple):
    """A column of `taskfs list`: its head, its cell for a task, and its field in a CSV file."""

    head: Column
    cell: "Callable[[Task, int], str]"
    field: str


def _cost(task: "Task") -> str:
    from taskfs.tasks.task_table import cost_of

    cost = cost_of(task)
    return "" if cost is None else format_money(cost)


def _output_size(task: "Task", now_ns: int) -> str:
    from taskfs.tasks.task_table import FIELDS

    size = FIELDS["output_bytes"](task, now_ns)
    return format_size(size) if isinstance(size, int) else ""


# The name in --columns and --sort: the column. A new column is a new row.
TASK_COLUMNS: Final[Mapping[str, TaskColumn]] = {
    "id": TaskColumn(ID, lambda task, _: task.id, "id"),
    "simulator": TaskColumn(SIMULATOR, lambda task, _: task.simulator or "", "simulator"),
    "status": TaskColumn(STATUS, lambda task, _: task.status, "status"),
    "submitted": TaskColumn(
        SUBMITTED,
        lambda task, _: format_local_time(task.input_submit_ns or task.create_ns),
        "submitted",
    ),
    "started": TaskColumn(
        Column("Started", 7), lambda task, _: format_local_time(task.start_ns), "started"
    ),
    "ended": TaskColumn(
        Column("Ended", 8), lambda task, _: format_local_time(task.end_ns), "ended"
    ),
    "time": TaskColumn(
        COMPUTATION_TIME,
        lambda task, now_ns: format_elapsed(task.computation_elapsed(now_ns)),
        "computation_seconds",
    ),
    "machine": TaskColumn(MACHINE, lambda task, _: task.machine_type, "machine"),
    "project": TaskColumn(Column("Project", 9), lambda task, _: task.project or "", "project"),
    "cost": TaskColumn(COST, lambda task, _: _cost(task), "cost_usd"),
    "size": TaskColumn(Column("Output size", 10), _output_size, "output_bytes"),
}
DEFAULT_COLUMNS: Final = ("id", "simulator", "status", "submitted", "time", "machine")


def columns_that_fit(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    width: int,
    length: Callable[[str], int] = len,
) -> list[int]:
    """Return the indexes of the columns that fit into *width* cells, in order.

    Columns of rank 0 are always included, so the result may still be wider than *width*.
    """
    titles = [column.title for column in columns]
    widths = [max(map(length, cells)) + GAP for cells in zip(titles, *rows, strict=True)]
    shown = list(range(len(columns)))
    for number in sorted(shown, key=lambda number: columns[number].rank):
        if columns[number].rank and sum(widths[each] for each in shown) - GAP > width:
            shown.remove(number)
    return shown

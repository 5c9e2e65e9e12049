"""The columns of the task tables, and which of them a narrow terminal shows."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

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

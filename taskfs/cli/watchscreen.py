"""What `taskfs watch` shows, and what each key does to it; neither terminal nor network."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from taskfs.cli.columns import GAP, columns_that_fit
from taskfs.cli.console import STATUS_STYLES, printable
from taskfs.cli.watch_tasks import COLUMNS, Snapshot
from taskfs.model import Task

if TYPE_CHECKING:
    from rich.console import RenderableType

KEYS_SHOWN: Final = "↑ ↓ choose   k kill   q leave"
ASKING_SHOWN: Final = "y kill   any other key: no"
# The lines that are not rows: the heading, the titles, a blank, the message, the keys.
_OTHER_LINES: Final = 5
_MOVES: Final = {"up": -1, "down": 1, "page up": -10, "page down": 10}


@dataclass(slots=True)
class Screen:
    """The state of the screen: the rows, the chosen one, a question or a message.

    *heading* is what stands above the table beside the number of tasks. *failure* says why they are
    older than they should be, until newer ones come. Used by one thread.
    """

    heading: str = ""
    snapshot: Snapshot | None = None
    chosen: str | None = None
    message: str = ""
    failure: str = ""
    asking: Task | None = None
    clock_offset_s: float = 0.0
    _first: int = field(default=0, repr=False)

    @property
    def tasks(self) -> list[Task]:
        return list(self.snapshot.tasks) if self.snapshot else []

    def show(self, snapshot: Snapshot) -> None:
        """Take newer tasks: the chosen one stays chosen, or its neighbour if it has ended."""
        before = [task.id for task in self.tasks]
        place = before.index(self.chosen) if self.chosen in before else 0
        self.snapshot, self.failure = snapshot, ""
        now = [task.id for task in snapshot.tasks]
        if self.chosen not in now:
            self.chosen = now[min(place, len(now) - 1)] if now else None
        for task in snapshot.ended:
            self.message = f"{task.id} ended as {task.status}"
            if self.asking and self.asking.id == task.id:
                self.asking = None

    def press(self, key: str) -> str | None:
        """Do what *key* does; return `leave`, the id of a task to kill, or None."""
        if self.asking is not None:
            task, self.asking = self.asking, None
            if key in ("y", "Y"):
                self.message = f"asking the API to kill {task.id} ..."
                return task.id
            self.message = "nothing was killed"
            return None
        if key == "q":
            return "leave"
        ids = [task.id for task in self.tasks]
        if not ids:
            return None
        place = ids.index(self.chosen) if self.chosen in ids else 0
        if key in _MOVES:
            self.chosen = ids[max(0, min(len(ids) - 1, place + _MOVES[key]))]
        elif key in ("home", "end"):
            self.chosen = ids[0 if key == "home" else -1]
        elif key == "k":
            task = self.tasks[place]
            if task.status == "pending-kill":
                self.message = f"{task.id} is pending-kill already"
            else:
                self.asking, self.message = task, ""
        return None

    def render(self, width: int, height: int) -> "RenderableType":
        """Return what fits into *height* lines of *width*, the chosen row among it."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now_ns = int((time.time() + self.clock_offset_s) * 1e9)
        visible = self._visible(max(1, height - _OTHER_LINES))
        rows = [self._row(task, now_ns) for task in visible]
        shown = columns_that_fit(COLUMNS, rows, width)
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
        for number in shown:
            table.add_column(COLUMNS[number].title, no_wrap=True, overflow="ellipsis")
        table.columns[0].min_width = max((len(row[0]) for row in rows), default=0)
        for task, row in zip(visible, rows, strict=True):
            is_chosen = task.id == self.chosen
            styles = {} if is_chosen else STATUS_STYLES
            cells = (Text(row[number], styles.get(row[number], "")) for number in shown)
            table.add_row(*cells, style="reverse" if is_chosen else "")
        question = f"Kill {self.asking.id} ({self.asking.status})?" if self.asking else ""
        return Group(
            Text(self._headline(), no_wrap=True, overflow="ellipsis"),
            table if rows else Text("No unfinished tasks." if self.snapshot else ""),
            Text(
                f"\n{printable(question or self.failure or self.message)}", "bold", overflow="fold"
            ),
            Text(ASKING_SHOWN if self.asking else KEYS_SHOWN, "dim"),
        )

    def _headline(self) -> str:
        if self.snapshot is None:
            return "taskfs watch   asking the API ..."
        count = len(self.snapshot.tasks)
        as_of = time.strftime("%H:%M:%S", time.localtime(self.snapshot.as_of_s))
        words = f"{count} unfinished task{'' if count == 1 else 's'}"
        return printable(f"taskfs watch   {words}{self.heading}   as of {as_of}")

    def _visible(self, most: int) -> list[Task]:
        """Return the rows to show, scrolled no further than the chosen one needs."""
        tasks = self.tasks
        place = next((n for n, task in enumerate(tasks) if task.id == self.chosen), 0)
        lowest, highest = place - most + 1, min(place, max(0, len(tasks) - most))
        self._first = max(0, lowest, min(self._first, highest))
        return tasks[self._first : self._first + most]

    def _row(self, task: Task, now_ns: int) -> tuple[str, ...]:
        assert self.snapshot is not None
        return tuple(printable(cell) for cell in self.snapshot.row(task, now_ns))

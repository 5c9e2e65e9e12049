"""The screen of `taskfs watch`: its lines, and the action of each key.

This module uses neither the terminal nor the network.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from taskfs.cli.columns import GAP, columns_that_fit
from taskfs.cli.output import STATUS_STYLES
from taskfs.cli.watch_tasks import COLUMNS, Snapshot
from taskfs.model import Task
from taskfs.support.formatting import escape_controls

if TYPE_CHECKING:
    from rich.console import RenderableType

KEYS_HINT: Final = "↑ ↓ choose   Enter info   x kill   q leave"
INFO_HINT: Final = "↑ ↓ scroll   any other key: back"
CONFIRM_HINT: Final = "y kill   any other key: no"
# Lines besides the rows: heading, titles, blank, message, keys.
_OTHER_LINES: Final = 5
_MOVES: Final = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -10, "page down": 10}
# Ended tasks that stay on the screen, the newest. More would leave no room for unfinished ones.
MAX_ENDED: Final = 50


class Action(NamedTuple):
    """The action that a key requests: `leave`, `suspend`, or `kill` or `info` of a task."""

    name: str
    task_id: str = ""


@dataclass(slots=True)
class Screen:
    """The state of the screen: the rows, the selected one, a question or a message.

    *heading* follows the number of tasks above the table. *failure* says why the last update
    failed, until one succeeds. *ended* are tasks that ended while the screen was shown. *info* are
    the lines about one task, shown instead of the table. *shown* are the tasks in the last table
    that was rendered. Not thread-safe.
    """

    heading: str = ""
    snapshot: Snapshot | None = None
    selected: str | None = None
    message: str = ""
    failure: str = ""
    confirming: Task | None = None
    clock_offset_s: float = 0.0
    ended: tuple[Task, ...] = ()
    info: Sequence[str] | None = None
    shown: Sequence[Task] = ()
    _first: int = field(default=0, repr=False)
    _scroll: int = field(default=0, repr=False)

    @property
    def tasks(self) -> list[Task]:
        """The rows: the unfinished tasks, then those that have ended."""
        unfinished = list(self.snapshot.tasks) if self.snapshot else []
        listed = {task.id for task in unfinished}
        return unfinished + [task for task in self.ended if task.id not in listed]

    def show(self, snapshot: Snapshot) -> None:
        """Show newer tasks. The selected task stays selected; if it ended, its neighbour is."""
        before = [task.id for task in self.tasks]
        index = before.index(self.selected) if self.selected in before else 0
        self.snapshot, self.failure = snapshot, ""
        new = {task.id for task in snapshot.ended}
        kept = [task for task in self.ended if task.id not in new]
        self.ended = (*snapshot.ended, *kept)[:MAX_ENDED]
        now = [task.id for task in self.tasks]
        if self.selected not in now:
            self.selected = now[min(index, len(now) - 1)] if now else None
        for task in snapshot.ended:
            self.message = f"{task.id} ended as {task.status}"
            if self.confirming and self.confirming.id == task.id:
                self.confirming = None

    def show_info(self, lines: Sequence[str]) -> None:
        """Show *lines* about a task until a key is pressed."""
        self.info, self._scroll, self.message = lines, 0, ""

    def press(self, key: str) -> Action | None:
        """Handle a key; return what the caller must do, if anything."""
        if key == "\x1a":  # Ctrl+Z
            return Action("suspend")
        if self.info is not None:
            if key in ("up", "down", "k", "j", "page up", "page down"):
                self._scroll = max(0, min(len(self.info) - 1, self._scroll + _MOVES[key]))
            else:
                self.info = None
            return None
        if self.confirming is not None:
            task, self.confirming = self.confirming, None
            if key in ("y", "Y"):
                self.message = f"asking the API to kill {task.id} ..."
                return Action("kill", task.id)
            self.message = "nothing was killed"
            return None
        if key == "q":
            return Action("leave")
        ids = [task.id for task in self.tasks]
        if not ids:
            return None
        index = ids.index(self.selected) if self.selected in ids else 0
        if key in _MOVES:
            self.selected = ids[max(0, min(len(ids) - 1, index + _MOVES[key]))]
        elif key in ("home", "end"):
            self.selected = ids[0 if key == "home" else -1]
        elif key in ("\r", "\n"):
            self.message = f"asking the API about {ids[index]} ..."
            return Action("info", ids[index])
        elif key == "x":
            task = self.tasks[index]
            if task.is_terminated:
                self.message = f"{task.id} has ended ({task.status})"
            elif task.status == "pending-kill":
                self.message = f"{task.id} is pending-kill already"
            else:
                self.confirming, self.message = task, ""
        return None

    def render(self, width: int, height: int) -> "RenderableType":
        """Return the screen for *height* lines of *width* cells; it includes the selected row."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        if self.info is not None:
            shown_lines = self.info[self._scroll : self._scroll + max(1, height - 2)]
            text = "\n".join(line[:width] for line in shown_lines)
            return Group(Text(text, no_wrap=True), Text(f"\n{INFO_HINT}", "dim"))
        now_ns = int((time.time() + self.clock_offset_s) * 1e9)
        self.shown = visible = self._visible(max(1, height - _OTHER_LINES))
        rows = [self._row(task, now_ns) for task in visible]
        shown = columns_that_fit(COLUMNS, rows, width)
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
        for number in shown:
            table.add_column(COLUMNS[number].title, no_wrap=True, overflow="ellipsis")
        table.columns[0].min_width = max((len(row[0]) for row in rows), default=0)
        for task, row in zip(visible, rows, strict=True):
            is_selected = task.id == self.selected
            styles = {} if is_selected or task.is_terminated else STATUS_STYLES
            cells = (Text(row[number], styles.get(row[number], "")) for number in shown)
            style = "dim" if task.is_terminated else ""
            table.add_row(*cells, style="reverse" if is_selected else style)
        asked = self.confirming
        question = f"Kill {asked.id} ({asked.status})?" if asked else ""
        message = escape_controls(question or self.failure or self.message)
        return Group(
            Text(self._headline(), no_wrap=True, overflow="ellipsis"),
            table if rows else Text("No unfinished tasks." if self.snapshot else ""),
            Text(f"\n{message}", "bold", overflow="fold"),
            Text(CONFIRM_HINT if self.confirming else KEYS_HINT, "dim"),
        )

    def _headline(self) -> str:
        if self.snapshot is None:
            return "taskfs watch   asking the API ..."
        count = len(self.snapshot.tasks)
        as_of = time.strftime("%H:%M:%S", time.localtime(self.snapshot.as_of_s))
        words = f"{count} unfinished task{'' if count == 1 else 's'}"
        return escape_controls(f"taskfs watch   {words}{self.heading}   as of {as_of}")

    def _visible(self, most: int) -> list[Task]:
        """Return the rows to show, scrolled just far enough to include the selected one."""
        tasks = self.tasks
        index = next((n for n, task in enumerate(tasks) if task.id == self.selected), 0)
        lowest, highest = index - most + 1, min(index, max(0, len(tasks) - most))
        self._first = max(0, lowest, min(self._first, highest))
        return tasks[self._first : self._first + most]

    def _row(self, task: Task, now_ns: int) -> tuple[str, ...]:
        assert self.snapshot is not None
        return tuple(escape_controls(cell) for cell in self.snapshot.row(task, now_ns))

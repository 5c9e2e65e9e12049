"""The progress bar of a download on a terminal."""

import sys
from typing import Final

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TimeRemainingColumn,
)
from rich.text import Text

# Seconds before a rate is shown. The first bytes arrive in a burst from the connection's buffers,
# and a rate measured over it is far too high.
SETTLE_S: Final = 1.0


class RateColumn(ProgressColumn):
    """The rate of the last seconds; after the end, the rate of the whole download."""

    def render(self, task: Task) -> Text:
        elapsed_s = task.finished_time if task.finished else task.elapsed
        if task.finished and elapsed_s:
            rate: float | None = task.completed / elapsed_s
        else:
            rate = task.speed if _has_settled(task) else None
        shown = "?" if rate is None else f"{decimal(max(0, int(rate)))}/s"
        return Text(shown, style="progress.data.speed")


class RemainingColumn(TimeRemainingColumn):
    """The remaining time, once the rate is known."""

    def render(self, task: Task) -> Text:
        if task.finished or _has_settled(task):
            return super().render(task)
        return Text("-:--:--", style="progress.remaining")


def _has_settled(task: Task) -> bool:
    return (task.elapsed or 0.0) >= SETTLE_S


def make_progress_bar() -> Progress:
    """Return a progress bar on standard error."""
    return Progress(
        TaskProgressColumn(),
        BarColumn(),
        DownloadColumn(),
        RateColumn(),
        RemainingColumn(),
        console=Console(file=sys.stderr),
    )

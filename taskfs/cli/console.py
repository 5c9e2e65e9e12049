"""What the commands share: the session with the API, and how they print."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from taskfs.cli.columns import GAP, Column, columns_that_fit
from taskfs.cli.options import Settings
from taskfs.config import Config
from taskfs.errors import AccessDenied, ConfigError, NotFound, TaskFSError, Unavailable

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient
    from taskfs.tasks.offline import OfflineAPI

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}

# What to do about errors whose texts come from the other side.
_FIXES: dict[type[Exception], str] = {
    AccessDenied: "check the API key: `inductiva auth login`, or --api-key-file",
    Unavailable: "check the network and --api-url: `taskfs doctor`",
}


def with_fix(exc: TaskFSError) -> str:
    """Return the error's text, with what to do where only we know it."""
    fix = _FIXES.get(type(exc))
    return f"{str(exc).rstrip('.')}: {fix}" if fix else str(exc)


@contextlib.contextmanager
def open_session(
    settings: Settings, *, timeout_s: float | None = None
) -> "Iterator[tuple[Config, TaskClient]]":
    """Yield the configuration and a client of the API; errors of both pass.

    No call may try for longer than *timeout_s*, whatever the configuration says.
    """
    config = settings.load()
    if config.offline:
        raise ConfigError("offline asks nobody, and this command must: set TASKFS_OFFLINE=no")
    if timeout_s is not None:
        config = replace(config, timeout_s=min(timeout_s, config.timeout_s))
    configure_logging(config)
    from taskfs.first_listing import open_client
    from taskfs.support import wait_notice

    wait_notice.tell_with(notice_function())

    with contextlib.closing(open_client(config)) as client:
        yield config, client


@contextlib.contextmanager
def open_reading(settings: Settings) -> "Iterator[tuple[Config, TaskClient | OfflineAPI]]":
    """Yield the same for who only reads records: with --offline, what the cache has of them."""
    config = settings.load()
    if not config.offline:
        with open_session(settings) as session:
            yield session
        return
    configure_logging(config)
    from taskfs.core import open_offline

    offline = open_offline(config)
    offline.check()
    yield config, offline


@contextlib.contextmanager
def known_task(task_id: str) -> Iterator[None]:
    """Within it, NotFound means that there is no such task, and says so."""
    try:
        yield
    except NotFound:
        raise NotFound(f"there is no task {task_id}: see `taskfs list --all`") from None


def configure_logging(config: Config) -> None:
    """Send the log of taskfs to the configured file or standard error, without secrets."""
    from taskfs.support import logs

    if config.log_file:
        logs.log_to_file(config.log_file, config.log_level)
    else:
        logs.log_to_stderr(config.log_level)


def notice_function() -> Callable[[str], object] | None:
    """Return what tells a person at a terminal something by the way, None where nobody looks."""
    return complain if sys.stderr is not None and sys.stderr.isatty() else None


def cache_problem(path: Path) -> str:
    """Return why no cache can be kept in *path*, which is made if it is missing; empty if one can.

    The text names the fix.
    """
    fix = "choose another with --cache-dir"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        return f"{path} cannot be made ({exc.strerror}): {fix}"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"{path} cannot be written to: {fix}"
    return ""


def complain(text: str) -> None:
    """Print one line to standard error, without secrets, control characters or line breaks."""
    from taskfs.support.redaction import redact

    line = printable(" ".join(redact(text).split()))
    with contextlib.suppress(OSError, ValueError):  # nobody reads it: the exit status remains
        print(f"taskfs: {line}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Return *text* with control characters as `\\xNN`: a name must not steer the terminal."""
    return text.translate(_CONTROLS)


def local_time(time_ns: int | None) -> str:
    """Return a time as `2024-02-08 13:25:49` on the local clock, empty where there is none."""
    if time_ns is None:
        return ""
    return datetime.fromtimestamp(time_ns / 1e9).strftime("%Y-%m-%d %H:%M:%S")


def is_terminal(stream: TextIO) -> bool:
    """Whether *stream* is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: on a terminal the columns that fit, elsewhere all of them as plain text.

    No cell is cut. Where the columns that always stay do not fit either, each cell has a line.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if is_terminal(sys.stdout):
        _draw_table(columns, rows)
    else:
        titles = [column.title for column in columns]
        sys.stdout.writelines(f"{line}\n" for line in aligned([titles, *rows]))


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield each row as a line in which the columns stand below each other, two blanks apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _draw_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    shown = columns_that_fit(columns, rows, console.width, cell_len)
    lines = [[Text(columns[number].title, "bold") for number in shown]]
    lines += [[Text(row[n], STATUS_STYLES.get(row[n], "")) for n in shown] for row in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*lines, strict=True)]
    if sum(widths) + GAP * (len(widths) - 1) > console.width:
        for first, *others in lines:
            console.print(first, soft_wrap=True)
            for cell in others:
                console.print(Text(" " * GAP) + cell, soft_wrap=True)
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, GAP, 0, 0))
    for _ in shown:
        table.add_column(no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console.print(table)


STATUS_STYLES = {"success": "green", "failed": "red", "killed": "yellow", "pending-kill": "yellow"}


class StatusLine:
    """A line that says how things stand: rewritten in place on a terminal, else one per change."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._in_place = is_terminal(stream)
        self._open = False
        self._last = ""

    def show(self, state: str, detail: str = "") -> None:
        """Show *state*; *detail*, which changes all the time, appears on a terminal only."""
        if self._in_place:
            text = f"{state}, {detail}" if detail else state
            self._stream.write(f"\r\x1b[K{printable(text)}")
            self._open = True
        elif state != self._last:
            self._stream.write(printable(state) + "\n")
        self._last = state
        self._stream.flush()

    def note(self, text: str) -> None:
        """Show *text* on a terminal; elsewhere it is no change."""
        if self._in_place:
            self.show(text)

    def end(self) -> None:
        """Leave the line as it is; what comes next begins below it."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False

    def clear(self) -> None:
        """Take the line away on a terminal."""
        if self._open:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._open = False

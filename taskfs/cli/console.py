"""What the commands share: the session with the API, and how they print."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

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
    return f"{exc}: {fix}" if fix else str(exc)


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


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: drawn on a terminal, else plain aligned columns in which nothing is cut.

    The first column is never cut, on a terminal either.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if is_terminal(sys.stdout):
        _draw_table(titles, rows)
    else:
        sys.stdout.writelines(f"{line}\n" for line in aligned([titles, *rows]))


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield each row as a line in which the columns stand below each other, two blanks apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _draw_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for number, title in enumerate(titles):
        table.add_column(title, no_wrap=number == 0, overflow="fold")
        if number == 0:
            table.columns[0].min_width = max((len(row[0]) for row in rows), default=0)
    for row in rows:
        table.add_row(*(Text(cell, STATUS_STYLES.get(cell, "")) for cell in row))
    Console().print(table)


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

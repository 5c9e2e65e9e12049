"""How the commands print: errors, tables, times and JSON."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

from taskfs.errors import AccessDenied, BadResponse, ConfigError, TaskFSError, Unavailable
from taskfs.support.formatting import escape_controls

if TYPE_CHECKING:
    from taskfs.cli.columns import Column

STATUS_STYLES: Final = {
    "success": "green",
    "failed": "red",
    "killed": "yellow",
    "pending-kill": "yellow",
}

# The fix for errors whose text comes from a server.
_FIXES: Final[dict[type[Exception], str]] = {
    AccessDenied: "check the API key: `taskfs login`, `inductiva auth login`, or --api-key-file",
    Unavailable: "check the network and --api-url: `taskfs doctor`",
}


def describe_error(exc: TaskFSError) -> str:
    """Return the error's text, with the fix where the text does not name one."""
    fix = _FIXES.get(type(exc))
    return f"{str(exc).rstrip('.')}: {fix}" if fix else str(exc)


def print_error(text: str) -> None:
    """Print one line to standard error, with secrets redacted and control characters escaped."""
    from taskfs.support.redaction import redact

    line = escape_controls(" ".join(redact(text).split()))
    with contextlib.suppress(OSError, ValueError):  # standard error is gone: the status remains
        print(f"taskfs: {line}", file=sys.stderr, flush=True)


def terminal_notifier() -> Callable[[str], object] | None:
    """Return a function that prints notices to standard error, None if it is no terminal."""
    return print_error if sys.stderr is not None and sys.stderr.isatty() else None


def format_json(value: object) -> str:
    """Return *value* as indented JSON.

    The text is ASCII unless standard output is UTF-8 and can encode it: JSON is UTF-8 (RFC 8259),
    and a character that the stream replaces would be lost.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    try:
        text.encode("utf-8" if is_utf8 else "ascii")
    except UnicodeEncodeError:  # UTF-8 cannot encode a lone surrogate
        return json.dumps(value, indent=2)
    return text


def is_terminal(stream: TextIO) -> bool:
    """Return whether *stream* is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def repeat_on_terminal(show: Callable[[], None], period_s: float) -> NoReturn:
    """Call *show* every *period_s* on a cleared terminal, until Ctrl+C.

    Once it has worked, a failure of the API is printed, and does not end the repetition.

    Raises:
        ConfigError: standard output is no terminal.
    """
    if not is_terminal(sys.stdout):
        raise ConfigError("-w needs a terminal: leave it out")
    has_worked = False
    while True:
        sys.stdout.write("\x1b[H\x1b[2J")  # cursor home, clear the screen (ECMA-48)
        try:
            show()
            has_worked = True
        except (Unavailable, BadResponse) as exc:
            if not has_worked:
                raise
            print_error(f"{exc}; trying again")
        sys.stdout.flush()
        time.sleep(period_s)


def print_table(columns: "Sequence[Column]", rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the columns that fit on a terminal, all columns as plain text elsewhere.

    Cells are never cut. If even the columns of rank 0 are too wide, each cell gets its own line.
    """
    rows = [[escape_controls(cell) for cell in row] for row in rows]
    if is_terminal(sys.stdout):
        _draw_table(columns, rows)
    else:
        titles = [column.title for column in columns]
        sys.stdout.writelines(f"{line}\n" for line in align([titles, *rows]))


def align(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield each row as a line with aligned columns, two blanks apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _draw_table(columns: "Sequence[Column]", rows: Sequence[Sequence[str]]) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from taskfs.cli.columns import GAP, columns_that_fit

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

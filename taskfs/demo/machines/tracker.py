"""The answers of a machine's file tracker to the four types of questions.

If the real tracker raises an exception, it never answers. `NoAnswer` stands for these cases: `tail`
of an empty file or of a directory, `ls` without a directory, wrong arguments.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from taskfs.demo.machines.files import OutputFiles, machine_path

BLOCK_BYTES: Final = 1024  # that a step backward from the end of a file reads, as on a machine
TRACK_PAUSE_S: Final = 1.0  # between two checks for a file that does not exist yet
_NOT_COUNTED: Final = ("system_metrics.csv", "output_update.csv")
_TOP: Final = """\
top - 12:00:00 up 10 min,  0 users,  load average: 3.97, 3.60, 2.11
Threads:   6 total,   5 running,   1 sleeping,   0 stopped,   0 zombie
%Cpu(s): 97.4 us,  1.1 sy,  0.0 ni,  1.5 id,  0.0 wa,  0.0 hi,  0.0 si,  0.0 st
MiB Mem :  16008.1 total,  11890.4 free,   2903.2 used,   1214.5 buff/cache

    PID USER      PR  NI    VIRT    RES    SHR S  %CPU  %MEM     TIME+ COMMAND
     41 root      20   0 2893312   1.9g  33216 R  99.9  12.2   9:41.07 solver
     42 root      20   0 2893312   1.9g  33216 R  99.7  12.2   9:40.11 solver
      1 root      20   0   38028  31544  12180 S   0.3   0.2   0:01.52 python
"""


class NoAnswer(Exception):
    """The tracker fails and never answers this question."""


class ErrorStatus(Exception):
    """The tracker answers with an error *status*."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class Operation:
    """A question in progress; a followed one is executed repeatedly."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    async def execute(self) -> Any:
        """Return the next message, or None. Raises NoAnswer, ErrorStatus."""
        return self._answer()


class Tail:
    """Return the last lines of a file first, then the appended ones."""

    def __init__(
        self,
        files: OutputFiles,
        sleep: Callable[[float], Awaitable[None]],
        filename: str,
        lines: int = 10,
        wait: bool = False,
    ) -> None:
        self._files = files
        self._sleep = sleep
        self._filename = filename
        self._lines = lines
        self._wait = wait
        self._cursor = 0
        self._mtime = 0.0

    async def execute(self) -> Any:
        if self._cursor:
            return self._appended()
        while self._wait and not self._exists():
            await self._sleep(TRACK_PAUSE_S)
        if not self._exists():
            raise ErrorStatus("error", f"File not found: {self._filename}")
        content = self._content()
        self._cursor = len(content)
        try:
            return self._split(tail_bytes(content, self._lines), self._lines)
        except TypeError:  # the number of lines is not a number
            raise NoAnswer from None

    def _appended(self) -> list[str] | None:
        if not self._exists() or self._files.mtime(self._filename) == self._mtime:
            return None
        content = self._content()
        new, self._cursor = content[self._cursor :], max(self._cursor, len(content))
        return self._split(new, None)

    def _content(self) -> bytes:
        content = self._files.read(self._filename)
        if content is None:  # a directory
            raise NoAnswer
        self._mtime = self._files.mtime(self._filename)
        return content

    def _exists(self) -> bool:
        names = self._files.names() or []
        directory = self._filename.rstrip("/") + "/"
        return any(name == self._filename or name.startswith(directory) for name in names)

    def _split(self, content: bytes, lines: int | None) -> list[str]:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise ErrorStatus("error", f"File is not a text file: {self._filename}") from None
        if not text:
            raise NoAnswer
        parts = text.removesuffix("\n").split("\n")
        return parts if lines is None else parts[-lines:]


def tail_bytes(content: bytes, lines: int) -> bytes:
    """Return the last blocks of *content*, as many as contain more than *lines* newlines.

    Return all of it if it has fewer.
    """
    start, newlines = len(content), 0
    while start > 0:
        stop, start = start, max(0, start - BLOCK_BYTES)
        newlines += content.count(b"\n", start, stop)
        if newlines > lines:
            break
    return content[start:]


def operation(
    question: Any, task_id: str, files: OutputFiles, sleep: Callable[[float], Awaitable[None]]
) -> Operation | Tail:
    """Return the operation that answers a question. Raises NoAnswer, ErrorStatus."""
    try:
        kind, arguments = question["type"], question["args"]
        if kind not in ("ls", "tail", "top", "last_modified_file"):
            raise ErrorStatus("invalid", f"Unknown operation type: {kind}")
        if kind == "tail":
            return Tail(files, sleep, **arguments)
        if dict(arguments):
            raise NoAnswer
    except (KeyError, TypeError, ValueError):
        raise NoAnswer from None
    if kind == "ls":
        return Operation(lambda: listing(files))
    if kind == "top":
        return Operation(lambda: _TOP)
    return Operation(lambda: last_modified_file(task_id, files))


def listing(files: OutputFiles) -> list[Any]:
    """Return the tree as JSON: a file is its name, a directory is `{name: [children]}`."""
    names = files.names()
    if names is None:
        raise NoAnswer
    top: list[Any] = []
    directories: dict[str, list[Any]] = {"": top}
    for name in names:
        parent, parts = top, name.split("/")
        for depth in range(1, len(parts)):
            path = "/".join(parts[:depth])
            if path not in directories:
                directories[path] = []
                parent.append({parts[depth - 1]: directories[path]})
            parent = directories[path]
        if parts[-1]:
            parent.append(parts[-1])
    return top


def last_modified_file(task_id: str, files: OutputFiles) -> dict[str, Any]:
    names = [name for name in files.names() or [] if not name.endswith("/")]
    times = {name: files.mtime(name) for name in names if name not in _NOT_COUNTED}
    newest = max(times, key=lambda name: times[name], default=None)
    now = time.time()
    return {
        "most_recent_file": newest and machine_path(task_id, newest),
        "most_recent_timestamp": times[newest] if newest else 0,
        "now_timestamp": now,
        "time_since_last_mod": now - times[newest] if newest else None,
    }

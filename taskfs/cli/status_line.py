"""A status line: rewritten in place on a terminal, one line per change elsewhere."""

from typing import TextIO

from taskfs.cli.output import is_terminal
from taskfs.support.formatting import escape_controls


class StatusLine:
    """The current state of a long operation on one stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._in_place = is_terminal(stream)
        self._open = False
        self._last = ""

    def show(self, state: str, detail: str = "") -> None:
        """Show *state*, and on a terminal also *detail*, which may change with each call."""
        if self._in_place:
            text = f"{state}, {detail}" if detail else state
            self._stream.write(f"\r\x1b[K{escape_controls(text)}")
            self._open = True
        elif state != self._last:
            self._stream.write(escape_controls(state) + "\n")
        self._last = state
        self._stream.flush()

    def show_on_terminal(self, text: str) -> None:
        """Show *text* on a terminal; write nothing elsewhere."""
        if self._in_place:
            self.show(text)

    def show_elsewhere(self, text: str) -> None:
        """Write *text* as a line if the stream is no terminal."""
        if not self._in_place:
            self._stream.write(escape_controls(text) + "\n")
            self._stream.flush()

    def finish(self) -> None:
        """Keep the line; later output begins below it."""
        self._close("\n")

    def clear(self) -> None:
        """Erase the line from a terminal."""
        self._close("\r\x1b[K")

    def _close(self, end: str) -> None:
        if self._open:
            self._stream.write(end)
            self._stream.flush()
            self._open = False

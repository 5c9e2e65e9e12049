"""Single key presses from a terminal, with the escape sequences of special keys decoded."""

import contextlib
import os
import re
import select
import termios
from collections.abc import Iterator
from typing import Final

# The bytes of one key: ECMA-48 CSI sequences, SS3 sequences (xterm's application mode), a lone
# escape, or a character.
_KEY: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO[A-Za-z]|\x1b(?=[^\[O])|[^\x1b]", re.S)
_NAMES: Final = {
    **dict.fromkeys(("\x1b[A", "\x1bOA"), "up"),
    **dict.fromkeys(("\x1b[B", "\x1bOB"), "down"),
    **dict.fromkeys(("\x1b[H", "\x1bOH", "\x1b[1~"), "home"),
    **dict.fromkeys(("\x1b[F", "\x1bOF", "\x1b[4~"), "end"),
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b": "escape",
}
# Seconds to wait for the rest of an escape sequence before the escape counts as a key of its own.
# Over ssh, the bytes of one sequence may arrive in several packets.
_SEQUENCE_TIMEOUT_S: Final = 0.05


class HangUp(Exception):
    """The terminal is gone."""


class Keyboard:
    """The keys typed on a terminal that `unbuffered` has prepared."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = ""

    def read(self, timeout_s: float) -> list[str]:
        """Return the keys typed so far, after waiting at most *timeout_s* for the first.

        A key is its character or a name such as `up`. Sequences of unknown keys are dropped.

        Raises:
            HangUp: the terminal is gone.
        """
        self._pending += self._receive(timeout_s)
        keys = []
        while self._pending:
            match = _KEY.match(self._pending)
            if match is None and (more := self._receive(_SEQUENCE_TIMEOUT_S)):
                self._pending += more
                continue
            key = match[0] if match else "\x1b"
            self._pending = self._pending[match.end() :] if match else ""
            keys.append(_NAMES.get(key, key))
        return [key for key in keys if key[0] != "\x1b"]

    def _receive(self, timeout_s: float) -> str:
        if not select.select([self._descriptor], [], [], timeout_s)[0]:
            return ""
        try:
            received = os.read(self._descriptor, 1024)
        except OSError as exc:  # EIO after a hang-up
            raise HangUp from exc
        if not received:
            raise HangUp
        return received.decode("utf-8", "replace")


@contextlib.contextmanager
def unbuffered(descriptor: int) -> Iterator[Keyboard]:
    """Yield the keyboard of a terminal without line buffering and echo; restore it afterwards.

    Ctrl+C still interrupts. Ctrl+Z is read as a key, because the signal would suspend the process
    and leave the terminal in this mode.
    """
    before = termios.tcgetattr(descriptor)
    during = termios.tcgetattr(descriptor)
    during[3] &= ~(termios.ICANON | termios.ECHO)
    during[6] = list(during[6])
    during[6][termios.VMIN], during[6][termios.VTIME] = 1, 0
    during[6][termios.VSUSP] = b"\0"  # _POSIX_VDISABLE
    try:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, during)
        yield Keyboard(descriptor)
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

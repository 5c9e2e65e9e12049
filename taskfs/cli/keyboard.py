"""Keys as they are typed: a terminal without line editing and echo, and its escape sequences."""

import contextlib
import os
import re
import select
import termios
from collections.abc import Iterator
from typing import Final

# What terminals send for a key (ECMA-48 CSI, and SS3 in the application mode of xterm).
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
# So long a sequence may take to arrive; after that the escape was a key by itself.
_REST_S: Final = 0.05


class HangUp(Exception):
    """Nobody types any more: the terminal is gone."""


class Keyboard:
    """The keys typed on a terminal that `unbuffered` has prepared."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = ""

    def read(self, timeout_s: float) -> list[str]:
        """Return the keys typed within *timeout_s*: at once if there are any, else none.

        A key is its character, or a name such as `up`; sequences of unknown keys are left out.

        Raises:
            HangUp: the terminal is gone.
        """
        self._pending += self._receive(timeout_s)
        keys = []
        while self._pending:
            match = _KEY.match(self._pending)
            if match is None and (more := self._receive(_REST_S)):
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
            typed = os.read(self._descriptor, 1024)
        except OSError as exc:  # EIO: a hang-up
            raise HangUp from exc
        if not typed:
            raise HangUp
        return typed.decode("utf-8", "replace")


@contextlib.contextmanager
def unbuffered(descriptor: int) -> Iterator[Keyboard]:
    """Yield the keyboard of a terminal: each key at once, unseen; Ctrl+C interrupts as ever.

    Ctrl+Z does nothing meanwhile: it would leave the terminal like that. Afterwards the terminal
    is what it was, whatever happens.
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
        with contextlib.suppress(termios.error):  # it is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

"""The command `taskfs` as a process of its own, against the embedded cloud."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fake_api import FakeCloud

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-W", "error", "-m", "taskfs")
PATIENCE_S = 30

# SIGINT is ignored where the tests run in the background; and a `preexec_fn` needs a fork, which
# Python warns of since the cloud is a thread of ours.
_PRELUDE = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
_TAKE = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
_EXEC = "os.execv(sys.argv[1], sys.argv[1:])"
_INTERRUPTIBLE = (sys.executable, "-ISc", _PRELUDE + _EXEC)
_ON_TERMINAL = (sys.executable, "-ISc", _PRELUDE + _TAKE + _EXEC)


@dataclass
class Command:
    """Runs `taskfs` in a directory and a home of its own."""

    cwd: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, *arguments: str, stdin: str = "", **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.cwd,
            env=self.environment | environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*_INTERRUPTIBLE, *COMMAND, *arguments],
            cwd=self.cwd,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def terminal(
        self, *arguments: str, term: str = "xterm-256color", columns: int = 120, **environment: str
    ) -> "contextlib.closing[Terminal]":
        environment = {**self.environment, **environment, "TERM": term}
        return contextlib.closing(Terminal([*COMMAND, *arguments], self.cwd, environment, columns))


class Terminal:
    """A process on a terminal of its own, as a person would run it."""

    def __init__(
        self, command: list[str], cwd: Path, environment: dict[str, str], columns: int = 120
    ) -> None:
        self._screen, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            [*_ON_TERMINAL, *command],
            cwd=cwd,
            env=environment,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)
        self.text = ""

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def read_until(self, awaited: str) -> None:
        """Return once *awaited* is on the screen."""
        deadline = time.monotonic() + PATIENCE_S
        while awaited not in self.text:
            assert time.monotonic() < deadline, f"no {awaited!r} in {self.text!r}"
            assert self._read(), f"no {awaited!r} in {self.text!r}"

    def end(self) -> int:
        """Return the exit status once the process has ended; `text` is all that it showed."""
        while self._read():
            pass
        return self.process.wait(PATIENCE_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._screen], [], [], PATIENCE_S)
        assert ready, f"silence after {self.text!r}"
        try:
            piece = os.read(self._screen, 65536)
        except OSError:  # EIO: the other end is closed
            return False
        self.text += piece.decode(errors="replace")
        return bool(piece)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._screen)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def bare(tmp_path: Path, home: Path) -> Command:
    """The command without any setting."""
    kept = {name: os.environ[name] for name in ("PATH", "TZ") if name in os.environ}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return Command(tmp_path, {**kept, "HOME": str(home), "PYTHONPATH": path})


@pytest.fixture
def taskfs(bare: Command, cloud: FakeCloud) -> Command:
    """The command with the key of the cloud, as the service's users have it."""
    service = {"INDUCTIVA_API_URL": cloud.api_url, "INDUCTIVA_API_KEY": cloud.api_key}
    return Command(bare.cwd, bare.environment | service)


def eventually(condition: Callable[[], bool]) -> None:
    """Return once *condition* is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def interrupt(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)

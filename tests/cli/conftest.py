"""The command `taskfs` as a child process, against the embedded cloud."""

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

from tests import fork_server
from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND, ROOT

TIMEOUT_S = 60
RETYPE_S = 10  # seconds after which a key without effect is pressed again

# A shell ignores SIGINT in background jobs, and with it in these tests. A `preexec_fn` cannot reset
# it, because forking with the cloud's thread running is a DeprecationWarning.
_PRELUDE = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
_TAKE = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
_EXEC = "os.execv(sys.argv[1], sys.argv[1:])"
_INTERRUPTIBLE = (sys.executable, "-ISc", _PRELUDE + _EXEC)
_ON_TERMINAL = (sys.executable, "-ISc", _PRELUDE + _TAKE + _EXEC)


@dataclass
class Command:
    """Runs `taskfs` with a temporary directory and home."""

    cwd: Path
    environment: dict[str, str] = field(default_factory=dict)
    new_interpreter: bool = False  # for tests of the imports and of the start

    def __call__(
        self, *arguments: str, stdin: str = "", **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        return fork_server.run(
            arguments,
            cwd=self.cwd,
            environment=self.environment | environment,
            stdin=stdin,
            timeout_s=TIMEOUT_S,
            new_interpreter=self.new_interpreter,
        )

    def python(self, program: str) -> "subprocess.CompletedProcess[str]":
        """Run a Python program in the command's environment."""
        return subprocess.run(
            [sys.executable, "-c", program],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def write_executable(self) -> Path:
        """Write an executable file that runs `taskfs`; return its path."""
        script = self.cwd / "bin/taskfs"
        script.parent.mkdir()
        script.write_text(
            f"#!{sys.executable} -Werror\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            "from taskfs.cli.main import main\nsys.exit(main())\n"
        )
        script.chmod(0o755)
        return script

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
        self,
        *arguments: str,
        term: str = "xterm-256color",
        columns: int = 120,
        rows: int = 40,
        **environment: str,
    ) -> "contextlib.closing[Terminal]":
        environment = {**self.environment, **environment, "TERM": term}
        return contextlib.closing(
            Terminal([*COMMAND, *arguments], self.cwd, environment, columns, rows)
        )


class Terminal:
    """A process on a pseudo-terminal."""

    def __init__(
        self,
        command: list[str],
        cwd: Path,
        environment: dict[str, str],
        columns: int = 120,
        rows: int = 40,
    ) -> None:
        self.screen, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
        self.process: subprocess.Popen[bytes] | fork_server.Forked
        words = command[len(COMMAND) :]
        if command == [*COMMAND, *words] and fork_server.can_fork(environment):
            self.process = fork_server.start_on_terminal(
                words, cwd=cwd, environment=environment, terminal=inner
            )
        else:
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
        os.write(self.screen, text.encode())

    def read_until(self, awaited: str) -> None:
        """Wait until *awaited* is on the screen."""
        deadline = time.monotonic() + TIMEOUT_S
        while awaited not in self.text:
            assert time.monotonic() < deadline, f"no {awaited!r} in {self.text!r}"
            assert self.read(), f"no {awaited!r} in {self.text!r}"

    def end(self) -> int:
        """Wait for the end and return the exit status; `text` then holds the whole output."""
        while self.read():
            pass
        return self.process.wait(TIMEOUT_S)

    def interrupt(self) -> int:
        """Press Ctrl+C until the process ends; return the exit status, as `end` does.

        A key that is pressed just before Python waits for input is noticed at the next key.
        """
        deadline = time.monotonic() + TIMEOUT_S
        while (begun := time.monotonic()) < deadline:
            self.type("\x03")
            while select.select([self.screen], [], [], max(0, begun + RETYPE_S - time.monotonic()))[
                0
            ]:
                if not self.read():
                    return self.end()
        return self.end()

    def read(self) -> bool:
        """Wait for output and add it to `text`; return False once the process has ended."""
        ready, _, _ = select.select([self.screen], [], [], TIMEOUT_S)
        assert ready, f"silence after {self.text!r}"
        try:
            piece = os.read(self.screen, 65536)
        except OSError:  # EIO: the other end is closed
            return False
        self.text += piece.decode(errors="replace")
        return bool(piece)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(TIMEOUT_S)
        os.close(self.screen)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def bare(tmp_path: Path, home: Path) -> Command:
    """The command without settings."""
    kept = {name: os.environ[name] for name in ("PATH", "TZ") if name in os.environ}
    return Command(tmp_path, {**kept, "HOME": str(home), "PYTHONPATH": fork_server.python_path()})


@pytest.fixture
def taskfs(bare: Command, cloud: FakeCloud) -> Command:
    """The command with the cloud's URL and key in the public client's variables."""
    service = {"INDUCTIVA_API_URL": cloud.api_url, "INDUCTIVA_API_KEY": cloud.api_key}
    return Command(bare.cwd, bare.environment | service)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until *condition* is true."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def interrupt(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)

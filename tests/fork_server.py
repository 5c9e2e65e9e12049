"""Runs of `taskfs` that are forked from a process which has imported it.

Starting an interpreter and importing taskfs costs ten times as much as most commands. `run` is
`subprocess.run` without that cost: the command is a process of its own, with its own descriptors,
directory, environment, command line and status. Tests of the start itself start interpreters.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import json
import os
import pkgutil
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
COMMAND: Final = (sys.executable, "-W", "error", "-m", "taskfs")
# The interpreter and the C library read these when a process starts.
_READ_AT_START: Final = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "GLIBC_")
_STREAMS: Final = "PYTHONIOENCODING"  # a forked command applies this one
# The variable of a forked command with a Python program that it runs first, to set a constant.
PRELUDE: Final = "TASKFS_TESTS_PRELUDE"
# Packages that most commands do not load; the first process that needs one loads it.
_NOT_PRELOADED: Final = ("taskfs.__main__", "taskfs.demo", "taskfs.fsspec", "taskfs.fuse.fusepy")
_MAX_REQUEST: Final = 1 << 17  # bytes; a packet of a Unix socket is delivered whole or not at all
_READY: Final = b"ready"
_COMMAND_LINE: Final = "-" * 4096  # room in the server's command line for that of a command


def python_path() -> str:
    """Return PYTHONPATH for processes that import taskfs from this directory."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


_SERVER_VARIABLES: Final = {"PYTHONPATH": python_path()}


def run(
    arguments: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    stdin: str = "",
    timeout_s: float,
    new_interpreter: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `taskfs` with *arguments* and capture its output, as `subprocess.run` does.

    Variables that the interpreter reads when it starts lead to a start of the interpreter, as does
    *new_interpreter*.
    """
    done = run_bytes(
        arguments,
        cwd=cwd,
        environment=environment,
        stdin=stdin.encode(),
        timeout_s=timeout_s,
        new_interpreter=new_interpreter,
    )
    return subprocess.CompletedProcess(
        arguments, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def run_bytes(
    arguments: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    stdin: bytes = b"",
    timeout_s: float,
    new_interpreter: bool = False,
) -> subprocess.CompletedProcess[bytes]:
    """Do the same as `run`, with bytes."""
    if can_fork(environment) and not new_interpreter:
        return _server().run(_request(arguments, cwd, environment), stdin, timeout_s)
    assert PRELUDE not in environment
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment,
        input=stdin,
        capture_output=True,
        timeout=timeout_s,
    )


def start() -> None:
    """Start the server of this process, if it was not, and wait until it can fork."""
    _server()


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether no variable differs that the interpreter reads when it starts."""
    at_start = {
        name: text
        for name, text in environment.items()
        if name.startswith(_READ_AT_START) and name != _STREAMS
    }
    return at_start == _SERVER_VARIABLES


def start_on_terminal(
    arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str], terminal: int
) -> Forked:
    """Start `taskfs` with a terminal, which becomes the controlling one of a new session."""
    request = {**_request(arguments, cwd, environment), "has_terminal": True}
    return Forked(_server().start(request, [terminal] * 3))


class Forked:
    """A forked command, with what tests use of `subprocess.Popen`."""

    def __init__(self, state: int) -> None:
        self._state = state  # a pipe: process id and status
        self._words = os.read(state, 64).decode()
        self.pid = int(self._words.split()[0])
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout_s: float) -> int:
        if self.returncode is None:
            if len(self._words.split()) < 2:
                if not select.select([self._state], [], [], timeout_s)[0]:
                    raise subprocess.TimeoutExpired(str(self.pid), timeout_s)
                self._words += os.read(self._state, 64).decode()
            self.returncode = int(self._words.split()[1])
            os.close(self._state)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    """The connection to a process that forks for each request.

    Safe for concurrent use: a request is one packet, and its answers have a pipe of their own.
    """

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*COMMAND[:-1], __name__, _COMMAND_LINE],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], **_SERVER_VARIABLES},
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
            )
        # After its imports, which are not part of the first command's time.
        assert self._requests.recv(len(_READY)) == _READY, "the fork server does not start"

    def close(self) -> None:
        self._requests.close()
        self._process.wait()

    def start(self, request: dict[str, Any], streams: Sequence[int]) -> int:
        """Start a command with standard streams; return a pipe: its process id and status."""
        reading, writing = os.pipe()
        socket.send_fds(self._requests, [json.dumps(request).encode()], [*streams, writing])
        os.close(writing)
        return reading

    def run(
        self, request: dict[str, Any], stdin: bytes, timeout_s: float
    ) -> subprocess.CompletedProcess[bytes]:
        pipes = [os.pipe() for _ in range(2)]  # standard output and error
        with tempfile.TemporaryFile() as typed:
            typed.write(stdin)
            typed.seek(0)
            state_pipe = self.start(request, [typed.fileno(), *(writing for _, writing in pipes)])
        for _, writing in pipes:
            os.close(writing)
        readings = [*(reading for reading, _ in pipes), state_pipe]
        output, errors, state = _read_all(readings, timeout_s)
        words = state.split()
        if len(words) < 2:
            os.kill(int(words[0]), signal.SIGKILL)
            raise subprocess.TimeoutExpired(request["arguments"], timeout_s, output, errors)
        return subprocess.CompletedProcess(request["arguments"], int(words[1]), output, errors)


def _request(arguments: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    return {
        "arguments": arguments,
        "cwd": str(cwd),
        "environment": dict(environment),
        "umask": _umask(),
        "has_terminal": False,
    }


def _umask() -> int:
    """Return the umask of this process; os.umask would change it for a moment."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Umask:")), 8)


@cache
def _server() -> _Server:
    server = _Server()
    atexit.register(server.close)
    return server


def _read_all(pipes: list[int], timeout_s: float) -> list[bytes]:
    """Read *pipes* until all are at their end, or for *timeout_s* seconds, and close them."""
    found = {pipe: b"" for pipe in pipes}
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() and (left_s := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                piece = os.read(key.fd, 65536)
                found[key.fd] += piece
                if not piece:
                    selector.unregister(key.fd)
    for pipe in pipes:
        os.close(pipe)
    return list(found.values())


def _serve(requests: socket.socket) -> None:
    """Fork for each request; write the process id and then the exit status to its last pipe."""
    running: dict[int, int] = {}  # process id: the pipe for its status
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([requests.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            for process in list(running):
                ended, status = os.waitpid(process, os.WNOHANG)
                if ended:
                    with contextlib.suppress(BrokenPipeError):  # the caller's time was up
                        os.write(running[process], b"%d" % os.waitstatus_to_exitcode(status))
                    os.close(running.pop(process))
        if requests.fileno() in ready:
            message, descriptors, _, _ = socket.recv_fds(requests, _MAX_REQUEST, 4)
            if not message:
                return
            process = os.fork()
            if process == 0:
                try:
                    _become_command(json.loads(message), descriptors)  # does not return
                finally:
                    traceback.print_exc()
                    os._exit(70)
            for descriptor in descriptors[:3]:
                os.close(descriptor)
            running[process] = descriptors[3]
            os.write(running[process], b"%d " % process)


def _become_command(request: dict[str, Any], descriptors: list[int]) -> None:
    """Give this process the descriptors and the state of the command, and run it to its end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    encoding, _, stream_errors = request["environment"].get(_STREAMS, "").partition(":")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(descriptors[number], number)
        mode, buffering = "w" if number else "r", 1 if number == 2 else -1
        errors = stream_errors or getattr(sys, name).errors
        if number == 2:
            errors = "backslashreplace"  # as the interpreter has it
        stream = open(number, mode, buffering, encoding or None, errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    if request["has_terminal"]:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    _set_command_line([*COMMAND, *request["arguments"]])
    sys.argv = [str(ROOT / "taskfs/__main__.py"), *request["arguments"]]
    exec(os.environ.pop(PRELUDE, ""))
    from taskfs.__main__ import run

    run()


def _set_command_line(words: list[str]) -> None:
    """Write the command line that /proc shows over that of the server."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, stop = int(fields[45]), int(fields[46])  # arg_start and arg_end, proc_pid_stat(5)
    line = b"\0".join(map(os.fsencode, words))[: stop - start - 1]
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(line.ljust(stop - start, b"\0"))


def _preload() -> None:
    import taskfs

    for module in pkgutil.walk_packages(taskfs.__path__, "taskfs."):
        if not module.name.startswith(_NOT_PRELOADED):
            import_module(module.name)
    assert threading.active_count() == 1, "a process with threads does not fork"
    gc.freeze()  # so that a collection in a command does not copy the pages of the server


if __name__ == "__main__":
    _preload()
    with socket.socket(fileno=sys.stdin.fileno()) as connection:
        connection.send(_READY)
        _serve(connection)

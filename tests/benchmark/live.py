"""`scripts/bench --live`: the log of a running task, beside `inductiva tasks tail`.

The cloud with the task's machine is a process of its own, so its CPU time is the machine's.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.environments import make_environment, python_of
from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND, ROOT
from tests.mounts import Mount
from tests.soak.daemon import usage_of
from tests.stun import StunServer

from .machine import cpu_seconds, describe

CLIENT: Final = "inductiva==0.18.12"
LINES: Final = 20_000  # of the log: about 0.6 MB
LOOKS: Final = 10


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the result: a program, and what it took for one look and for ten."""

    title: str
    first_s: float
    ten_s: float
    api_requests: int
    machine_cpu_s: float


class LiveCloud:
    """The process with the cloud, whose one task runs. Not for concurrent use."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.api_url, self.api_key, self.task = self._call()

    def _call(self) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    @property
    def api_requests(self) -> int:
        count: int = self._call()
        return count

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _serve() -> None:
    """Answer each line of standard input: the first with the cloud, others with its requests."""
    with FakeCloud() as cloud:
        task = cloud.add_task(status="computation-started")
        log = b"".join(b"step %6d  residual = 1.25e-05\n" % n for n in range(LINES))
        cloud.machine_files(task).write("stdout.txt", log)
        for number, _ in enumerate(sys.stdin):
            answer: Any = len(cloud.requests) if number else (cloud.api_url, cloud.api_key, task)
            print(json.dumps(answer), flush=True)


def _look(command: Sequence[str], environment: dict[str, str]) -> float:
    """Return the seconds until the last line of the log is printed."""
    began_s = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    seen = b""
    while piece := os.read(process.stdout.fileno(), 1 << 16):
        seen += piece
        if b"step %6d" % (LINES - 1) in seen:
            break
    taken_s = time.monotonic() - began_s
    process.stdout.close()
    process.wait()
    assert piece, f"{command[0]} did not print the last line"
    return taken_s


def _measure(title: str, cloud: LiveCloud, look: Callable[[], float]) -> Row:
    requests, cpu_s, began_s = cloud.api_requests, cpu_seconds([cloud.pid]), time.monotonic()
    first_s = look()
    for _ in range(LOOKS - 1):
        look()
    ten_s = time.monotonic() - began_s
    return Row(
        title,
        first_s,
        ten_s,
        cloud.api_requests - requests,
        cpu_seconds([cloud.pid]) - cpu_s,
    )


@contextlib.contextmanager
def _mounted(cloud: LiveCloud, home: Path) -> Iterator[Mount]:
    with FakeCloud() as unused:
        mount = Mount(unused, home / "mnt", home)
        mount.path.mkdir()
        mount.taskfs.environment |= {
            "INDUCTIVA_API_URL": cloud.api_url,
            "INDUCTIVA_API_KEY": cloud.api_key,
        }
        mount.start()
        try:
            yield mount
        finally:
            mount.stop()


def main(cache: Path) -> int:
    """Measure, and print a table; the public client is installed into *cache*."""
    client = cache / CLIENT
    failure = make_environment(client, [CLIENT])
    rows = []
    cloud = LiveCloud()
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            mount = stack.enter_context(_mounted(cloud, folder))
            # The client waits 5 s for a server that is silent, so there is one.
            port = stack.enter_context(contextlib.closing(StunServer())).socket.getsockname()[1]
            server = {"INDUCTIVA_TURN_SERVER_URL": f"127.0.0.1:{port}"}
            environment = mount.taskfs.environment | server
            time.sleep(2)  # the rest of the daemon's modules is loaded
            before = usage_of(mount.pid).private
            file = mount.path / cloud.task / "live/stdout.txt"
            tail = ["tail", "-n", "3", str(file)]
            rows.append(_measure("taskfs mount, `tail`", cloud, lambda: _look(tail, environment)))
            after = usage_of(mount.pid).private
            own = [*COMMAND, "tail", "-n", "3", f"{cloud.task}/live/stdout.txt"]
            rows.append(_measure("`taskfs tail`", cloud, lambda: _look(own, environment)))
            theirs = [str(python_of(client).with_name("inductiva")), "tasks", "tail", cloud.task]
            theirs += ["stdout.txt", "--lines", "3"]
            if failure:
                print(f"{CLIENT} is not measured: {failure}", file=sys.stderr)
            else:
                title = "`inductiva tasks tail`"
                rows.append(_measure(title, cloud, lambda: _look(theirs, environment)))
    finally:
        cloud.close()
    print(f"{describe()}, a log of {LINES:,} lines on loopback.\n")
    print("| | first look | ten looks | API requests | machine's CPU |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row.title} | {row.first_s:.2f} s | {row.ten_s:.2f} s | {row.api_requests} "
            f"| {row.machine_cpu_s:.2f} s |"
        )
    print(f"\nThe daemon's memory: {before / 1e6:.0f} MB before the first look, ", end="")
    print(f"{after / 1e6:.0f} MB after ten.")
    return 0


if __name__ == "__main__":
    _serve()

"""Ctrl+C ends any blocked operation, and other readers go on."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import on_mount
from tests.fake_api import FakeCloud
from tests.file_systems import assert_same
from tests.mounts import Mount, eventually
from tests.outputs import LONG_AGO

pytestmark = pytest.mark.mount

CONTENT: Final = os.urandom(400_000)
# 1 s is promised; the machine may be busy, and a Python that is interrupted prints its traceback.
# Seconds. A call that is not interrupted waits 30 s for the timeout.
PROMPT_S: Final = 15.0
STATUS_AGE_S: Final = 2.5  # seconds; more than `--status-cache-time`
STILL_S: Final = 0.3  # a process that starts is run again sooner, also on a busy machine
PYTHON: Final = {
    "python reads": "open(sys.argv[1] + '/outputs/a', 'rb').read()",
    "python stats": "os.stat(sys.argv[1] + '/outputs/a')",
    "python lists": "os.listdir(sys.argv[1] + '/outputs')",
    "python opens": "open(sys.argv[1] + '/output.zip')",
    # Unbuffered: a buffer of Python's tries again when it is closed, and waits once more.
    "python kills": "os.write(os.open(sys.argv[1] + '/kill', os.O_WRONLY), b'1')",
}
SHELL: Final = {
    "cat": 'exec cat "$1/outputs/a"',
    "ls": 'exec ls -l "$1/outputs"',
    "cp": 'exec cp -r "$1/outputs" /tmp/never-copied',
    "kill": 'echo 1 > "$1/kill"',
    "status of a started one": 'exec cat "$1/status"',
    "all tasks": 'exec ls "$1/.."',
}


@pytest.fixture(scope="module", params=["kernel", "fusepy"])
def stalled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Mount, FakeCloud]]:
    """A mount whose cloud can be stalled, with the timeouts that a user has."""
    home = tmp_path_factory.mktemp("stalled")
    with FakeCloud() as cloud, on_mount(cloud, home, {"engine": request.param}) as mount:
        yield mount, cloud
        cloud.faults.clear()


@pytest.fixture
def mountpoint(stalled: tuple[Mount, FakeCloud]) -> Iterator[Path]:
    mount, cloud = stalled
    cloud.faults.clear()
    yield mount.path
    cloud.faults.clear()
    mount.check_log()


@pytest.fixture
def cloud(stalled: tuple[Mount, FakeCloud]) -> FakeCloud:
    return stalled[1]


def progress_of(pid: int) -> tuple[str, ...]:
    """Return the state of a process, its program and how often it was run (proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    names = ("Name", "State", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    return tuple(fields[name] for name in names)


def are_blocked(*processes: "subprocess.Popen[Any]") -> bool:
    """Whether all processes sleep, as they do until the mount answers.

    Its kernel function (/proc/PID/wchan) would tell more, but not every kernel shows that, and its
    name differs between versions.
    """
    assert all(process.poll() is None for process in processes), "one has ended"
    before = [progress_of(process.pid) for process in processes]
    if not all(state[0] in "SD" for _, state, *_ in before):
        return False
    for _ in range(2):
        time.sleep(STILL_S)
        if [progress_of(process.pid) for process in processes] != before:
            return False
    return True


@contextlib.contextmanager
def running_blocked(
    *commands: list[str], pass_fds: tuple[int, ...] = ()
) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Processes that run *commands*, each of which waits for an answer by now."""
    with contextlib.ExitStack() as stack:
        processes = []
        for command in commands:
            process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=pass_fds,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            processes.append(process)
        eventually(lambda: are_blocked(*processes))
        yield processes


def commands(task: Path) -> dict[str, list[str]]:
    program = "import os, sys\ntry:\n    {}\nexcept KeyboardInterrupt:\n    sys.exit(130)"
    python = {
        name: [sys.executable, "-c", program.format(line), str(task)]
        for name, line in PYTHON.items()
    }
    shell = {name: ["bash", "-c", line, "bash", str(task)] for name, line in SHELL.items()}
    return python | shell


def test_ctrl_c_ends_every_blocked_operation(mountpoint: Path, cloud: FakeCloud) -> None:
    """K-13: Ctrl+C ends each blocked operation within 1 s, in Python programs too."""
    ways = {
        name: cloud.add_task(
            status="started" if "kill" in name or "started" in name else "success",
            end_time=LONG_AGO,
        )
        for name in (*PYTHON, *SHELL)
    }
    for task in ways.values():
        assert (mountpoint / task / "status").exists()
    (mountpoint / ".taskfs/refresh").write_text("1")
    cloud.faults.add("stall", times=None)
    lines = [commands(mountpoint / task)[name] for name, task in ways.items()]
    with running_blocked(*lines) as processes:
        for name, process in zip(ways, processes, strict=True):
            began = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)
            status = process.wait(30)
            assert time.monotonic() - began < PROMPT_S, name
            assert status in (130, 1, -signal.SIGINT), name
            assert status == 130 or not name.startswith("python")
    cloud.faults.clear()
    for task in ways.values():
        assert (mountpoint / task / "status").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_other_signals_end_it_too(
    mountpoint: Path, cloud: FakeCloud, number: signal.Signals
) -> None:
    """K-13: kill(1) ends a blocked operation within 1 s as well."""
    task = cloud.add_task(outputs={"a": CONTENT}, end_time=LONG_AGO)
    assert (mountpoint / task / "outputs/a").stat().st_size == len(CONTENT)
    cloud.faults.add("stall", side="store", times=None)
    with running_blocked(["cat", str(mountpoint / task / "outputs/a")]) as [process]:
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(30) == -number
        assert time.monotonic() - began < PROMPT_S


def test_what_was_interrupted_goes_on_and_others_get_it(mountpoint: Path, cloud: FakeCloud) -> None:
    """K-13: An interrupted request goes on, and other readers get its bytes."""
    task = cloud.add_task(outputs={"a": CONTENT}, end_time=LONG_AGO)
    path = mountpoint / task / "outputs/a"
    assert path.stat().st_size == len(CONTENT)
    cloud.clear_requests()
    cloud.faults.add("stall", side="store", times=None)
    received: list[bytes] = []
    patient = threading.Thread(target=lambda: received.append(path.read_bytes()))
    with running_blocked(["cat", str(path)]) as [process]:
        patient.start()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT
    assert received == []
    cloud.faults.clear()
    patient.join(60)
    assert_same(received[0], CONTENT)
    assert_same(path.read_bytes(), CONTENT)


def test_one_slow_read_blocks_no_other(mountpoint: Path, cloud: FakeCloud) -> None:
    """R-19: One slow read blocks no other request."""
    slow = cloud.add_task(outputs={"a": CONTENT}, end_time=LONG_AGO)
    other = cloud.add_task(outputs={"b": b"b"}, end_time=LONG_AGO)
    assert (mountpoint / slow / "outputs/a").stat().st_size == len(CONTENT)
    assert (mountpoint / other / "outputs/b").read_bytes() == b"b"
    cloud.faults.add("stall", side="store", times=None)
    with running_blocked(*[["cat", str(mountpoint / slow / "outputs/a")]] * 12):
        began = time.monotonic()
        assert (mountpoint / other / "status").read_text() == "success\n"
        assert os.listdir(mountpoint / slow / "outputs") == ["a"]
        assert (mountpoint / slow / "outputs/a").stat().st_size == len(CONTENT)
        os.statvfs(mountpoint)
        assert json.loads((mountpoint / ".taskfs/stats.json").read_text())["open_handles"] >= 12
        assert time.monotonic() - began < PROMPT_S


def test_an_interrupted_kill_is_sent_once(mountpoint: Path, cloud: FakeCloud) -> None:
    """K-13, K-2: A kill whose writer was interrupted is sent once."""
    task = cloud.add_task(status="started")
    assert (mountpoint / task / "status").read_text() == "started\n"
    cloud.clear_requests()
    cloud.faults.add("stall", path=f"{task}/kill", times=1)
    with running_blocked(["bash", "-c", f"echo 1 > {mountpoint}/{task}/kill"]) as [process]:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
    cloud.faults.clear()
    eventually(lambda: cloud.killed.count(task) == 1)
    eventually(lambda: (mountpoint / task / "status").read_text() == "pending-kill\n")
    assert sum(r.path.endswith("/kill") for r in cloud.requests) == 1


def test_a_kill_is_sent_though_its_writer_left_before_any_response(
    mountpoint: Path, cloud: FakeCloud
) -> None:
    """K-13, K-2: A writer is interrupted while the API is silent and the cached status is out of
    date; the kill is sent once."""
    task = cloud.add_task(status="started")
    assert (mountpoint / task / "status").read_text() == "started\n"
    kill = os.open(mountpoint / task / "kill", os.O_WRONLY)
    try:
        time.sleep(STATUS_AGE_S)
        cloud.clear_requests()
        cloud.faults.add("stall", times=None)
        # No buffered write: a shell would ask for the file's attributes first, and wait for them.
        program = f"import os; os.write({kill}, b'1')"
        command = [sys.executable, "-c", program]
        with running_blocked(command, pass_fds=(kill,)) as [writer]:
            began = time.monotonic()
            os.killpg(writer.pid, signal.SIGINT)
            writer.wait(30)
            assert time.monotonic() - began < PROMPT_S
        cloud.faults.clear()
        eventually(lambda: cloud.killed.count(task) == 1)
    finally:
        os.close(kill)
    eventually(lambda: (mountpoint / task / "status").read_text() == "pending-kill\n")
    assert sum(r.path.endswith("/kill") for r in cloud.requests) == 1


def test_a_signal_handler_may_go_on(mountpoint: Path, cloud: FakeCloud) -> None:
    """K-13: A program that goes on after a signal (PEP 475) gets the right bytes, and its kill is
    one request."""
    task = cloud.add_task(outputs={"a": CONTENT}, end_time=LONG_AGO)
    path = mountpoint / task / "outputs/a"
    assert path.stat().st_size == len(CONTENT)
    victim = cloud.add_task(status="started")
    assert (mountpoint / victim / "status").read_text() == "started\n"
    program = (
        "import hashlib, signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "print(open(sys.argv[2], 'wb', buffering=0).write(b'12'))\n"
        "print(hashlib.sha256(open(sys.argv[1], 'rb', buffering=0).read()).hexdigest())\n"
    )
    cloud.clear_requests()
    cloud.faults.add("stall", path=f"{victim}/kill", times=None)
    cloud.faults.add("stall", side="store", times=None)
    with subprocess.Popen(
        [sys.executable, "-c", program, path, mountpoint / victim / "kill"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        eventually(lambda: are_blocked(process))
        for _ in range(3):
            process.send_signal(signal.SIGUSR1)
            time.sleep(0.2)
        cloud.faults.release()
        assert process.stdout.readline() == "2\n"
        assert (mountpoint / victim / "status").read_text() == "pending-kill\n"
        assert sum(r.path.endswith("/kill") for r in cloud.requests) == 1
        eventually(lambda: are_blocked(process))
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
        cloud.faults.clear()
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.strip() == hashlib.sha256(CONTENT).hexdigest()

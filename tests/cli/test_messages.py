"""Messages about keys, variables, the cache directory and an unreachable API."""

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND
from tests.mounts import is_mounted, unmount


def without_key(taskfs: Command) -> Command:
    """Return the command with the cloud's URL and without its key."""
    kept = {k: v for k, v in taskfs.environment.items() if k != "INDUCTIVA_API_KEY"}
    return Command(taskfs.cwd, kept)


def write_to(fifo: Path, text: str) -> threading.Thread:
    """Write *text* to a FIFO when it is opened for reading."""
    thread = threading.Thread(target=fifo.write_text, args=(text,), daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("command", [("list",), ("doctor",)])
def test_a_key_from_a_fifo(taskfs: Command, cloud: FakeCloud, command: tuple[str, ...]) -> None:
    """C-26: A FIFO is read once, however often the key is needed."""
    fifo = taskfs.cwd / "fifo"
    os.mkfifo(fifo)
    writer = write_to(fifo, cloud.api_key + "\n")
    done = without_key(taskfs)(*command, "--api-key-file", str(fifo))
    writer.join(10)
    if command == ("list",):
        assert (done.returncode, done.stderr) == (0, "No tasks found.\n")
    else:
        assert re.search(r"(?m)^ok   API: ", done.stdout), done.stdout


@pytest.mark.mount
def test_a_mount_s_key_from_a_fifo(taskfs: Command, cloud: FakeCloud) -> None:
    """C-26: A mount takes its key from a FIFO, although another process serves it."""
    task = cloud.add_task()
    fifo, mountpoint = taskfs.cwd / "fifo", taskfs.cwd / "mnt"
    os.mkfifo(fifo)
    mountpoint.mkdir()
    writer = write_to(fifo, cloud.api_key + "\n")
    done = without_key(taskfs)("mount", str(mountpoint), "--api-key-file", str(fifo))
    assert (done.returncode, done.stderr) == (0, "")
    try:
        writer.join(10)
        assert task in os.listdir(mountpoint)
    finally:
        unmount(mountpoint)


@pytest.mark.parametrize("name", ["/dev/stdin", "/dev/fd/0"])
@pytest.mark.parametrize("kind", ["pipe", "file", "socket"])
def test_a_key_from_standard_input(taskfs: Command, cloud: FakeCloud, name: str, kind: str) -> None:
    """C-26: `--api-key-file` may be /dev/stdin, whatever is behind it."""
    environment = without_key(taskfs).environment
    mountpoint = taskfs.cwd / "key"
    mountpoint.write_text(f"{cloud.api_key}\n")
    ours, theirs = socket.socketpair()
    with ours, theirs, mountpoint.open() as file:
        reading, writing = os.pipe()
        for end in (writing, ours.fileno()):
            os.write(end, mountpoint.read_bytes())
        os.close(writing)
        stdin = {"pipe": reading, "file": file.fileno(), "socket": theirs.fileno()}[kind]
        done = subprocess.run(
            [*COMMAND, "doctor", "--api-key-file", name],
            env=environment,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=30,
        )
        os.close(reading)
    assert re.search(r"(?m)^ok   API: ", done.stdout), done.stdout


def test_standard_input_that_is_closed(taskfs: Command) -> None:
    """C-26, C-1: A closed standard input is one line with the fix."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{' '.join(COMMAND)} list --api-key-file /dev/stdin <&-"],
        env=without_key(taskfs).environment | {"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "/dev/stdin" in done.stderr and "inductiva auth login" in done.stderr


def test_a_misspelt_variable(taskfs: Command) -> None:
    """C-27: A TASKFS_ variable that is no setting is warned of, with the probable one."""
    done = taskfs("list", TASKFS_CACHE_SIZ="1G", TASKFS_FROBNICATE="1", TASKFS_CACHE_DIR="/tmp/x")
    assert done.returncode == 0
    first, second, *_ = done.stderr.splitlines()
    assert first == "taskfs: TASKFS_CACHE_SIZ is no setting: did you mean TASKFS_CACHE_SIZE?"
    assert second == "taskfs: TASKFS_FROBNICATE is no setting"
    assert done.stderr.count("TASKFS_CACHE_DIR is") == 0


def test_a_wrong_key_reads_well(taskfs: Command) -> None:
    """C-1: The service's full stop does not stand before the fix."""
    done = taskfs("list", INDUCTIVA_API_KEY="wrong")
    assert re.fullmatch(
        r"taskfs: GET /tasks: [^.]+: check the API key: `taskfs login`, `inductiva auth login`, or "
        r"--api-key-file\n",
        done.stderr,
    ), done.stderr


@pytest.mark.mount
def test_a_cache_directory_that_cannot_be_used(taskfs: Command, cloud: FakeCloud) -> None:
    """C-29: A mount whose cache directory cannot be used says so and works."""
    task = cloud.add_task()
    mountpoint = taskfs.cwd / "mnt"
    mountpoint.mkdir()
    (taskfs.cwd / "file").write_text("")
    for directory in ("/dev/null/x", str(taskfs.cwd / "file")):
        done = taskfs("mount", str(mountpoint), "--cache-dir", directory)
        try:
            assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
            assert done.stderr.startswith(f"taskfs: nothing is cached on disk: {directory} cannot")
            assert "--cache-dir" in done.stderr
            assert task in os.listdir(mountpoint)
        finally:
            unmount(mountpoint)
    done = taskfs("mount", str(mountpoint), "--cache-dir", "/dev/null/x", "--cache-size", "0")
    unmount(mountpoint)
    assert (done.returncode, done.stderr) == (0, "")


NOTICE = "no response yet (Connection refused), trying until 20 s"


@pytest.fixture
def unused() -> Iterator[int]:
    """A local port on which nothing listens. It stays bound, so no other program gets it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.mark.parametrize("arguments", [("list",), ("mount", "mnt"), ("mount", "-f", "mnt")])
def test_an_unreachable_api_is_a_notice_on_a_terminal(
    taskfs: Command, unused: int, arguments: tuple[str, ...]
) -> None:
    """C-28: On a terminal, one notice appears after 2 s without an answer."""
    (taskfs.cwd / "mnt").mkdir()
    url = f"http://127.0.0.1:{unused}"
    began = time.monotonic()
    with taskfs.terminal(*arguments, "--api-url", url, "--timeout", "20s") as terminal:
        terminal.read_until(NOTICE)
        assert time.monotonic() - began > 2
        terminal.process.send_signal(signal.SIGINT)
        terminal.end()
        assert terminal.text.count("no response yet") == 1
    assert not is_mounted(taskfs.cwd / "mnt")


def test_a_pipe_gets_no_notice(taskfs: Command, unused: int) -> None:
    """C-28: If standard error is no terminal, only the outcome is printed."""
    done = taskfs("list", "--api-url", f"http://127.0.0.1:{unused}", "--timeout", "4s")
    assert done.returncode == 1
    assert "no response yet" not in done.stderr and done.stderr.count("\n") == 1

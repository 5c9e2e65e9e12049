"""The systemd service is ready when the mount is live."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND
from tests.mounts import Taskfs, eventually, is_mounted

pytestmark = pytest.mark.mount


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    yield mountpoint
    if is_mounted(mountpoint):
        subprocess.run(["fusermount", "-uz", mountpoint], check=False)


@contextlib.contextmanager
def service_manager(address: str) -> Iterator[socket.socket]:
    """A socket as systemd has one for a service of Type=notify; `@` is an abstract one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address.replace("@", "\0", 1))
        channel.settimeout(30)
        yield channel


def start(taskfs: Taskfs, mountpoint: Path, address: str, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, "mount", "--foreground", *options, str(mountpoint)],
        env=taskfs.environment | {"NOTIFY_SOCKET": address},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kind", ["file", "abstract"])
def test_ready_comes_from_the_live_mount(
    tmp_path: Path, mountpoint: Path, cloud: FakeCloud, kind: str
) -> None:
    """E-16: Readiness comes from the live mount; the end is reported, and children inherit no
    NOTIFY_SOCKET."""
    address = str(tmp_path / "notify") if kind == "file" else f"@taskfs-{os.getpid()}-{tmp_path}"
    cloud.faults.add("stall", side="api", seconds=0.5)
    with service_manager(address) as channel:
        process = start(Taskfs(tmp_path, cloud), mountpoint, address)
        lines = channel.recv(4096).decode().split("\n")
        assert is_mounted(mountpoint)
        assert ".by-status" in os.listdir(mountpoint)
        assert lines == ["READY=1", f"STATUS=Mounted on {mountpoint}"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert channel.recv(4096) == b"STOPPING=1"
    assert (process.returncode, out, err) == (0, "", "")
    assert not is_mounted(mountpoint)


def test_a_mount_that_fails_is_never_ready(
    tmp_path: Path, mountpoint: Path, cloud: FakeCloud
) -> None:
    """E-16: A mount that fails is never ready."""
    taskfs = Taskfs(tmp_path, cloud)
    taskfs.environment["INDUCTIVA_API_KEY"] = "wrong"
    with service_manager(str(tmp_path / "notify")) as channel:
        process = start(taskfs, mountpoint, str(tmp_path / "notify"))
        _, err = process.communicate(timeout=30)
        channel.setblocking(False)
        with pytest.raises(BlockingIOError):
            channel.recv(4096)
    assert process.returncode == 1
    assert err.startswith("taskfs: ") and err.count("\n") == 1


@pytest.mark.parametrize("address", ["/nonexistent/socket", "relative", "@"])
def test_a_service_manager_that_is_away_fails_nothing(
    tmp_path: Path, mountpoint: Path, cloud: FakeCloud, address: str
) -> None:
    """E-16: A service manager that does not listen fails nothing (sd_notify(3))."""
    log = tmp_path / "log"
    options = ("--log-level", "info", "--log-file", str(log))
    process = start(Taskfs(tmp_path, cloud), mountpoint, address, *options)
    # The mount answers shortly before it is live; until then a signal interrupts its start.
    eventually(lambda: log.exists() and "mounted on" in log.read_text())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_background_mount_notifies_no_service_manager(
    tmp_path: Path, mountpoint: Path, cloud: FakeCloud
) -> None:
    """E-16: A background mount of a script within a service does not report the service ready."""
    taskfs = Taskfs(tmp_path, cloud)
    with service_manager(str(tmp_path / "notify")) as channel:
        done = taskfs("mount", mountpoint, NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert (done.returncode, done.stderr) == (0, "")
        assert taskfs("umount", mountpoint).returncode == 0
        channel.setblocking(False)
        with pytest.raises(BlockingIOError):
            channel.recv(4096)


def test_exec_stop(tmp_path: Path, mountpoint: Path, cloud: FakeCloud) -> None:
    """E-17: `taskfs umount --lazy` ends the service, also while a file is open."""
    taskfs = Taskfs(tmp_path, cloud)
    with service_manager(str(tmp_path / "notify")) as channel:
        process = start(taskfs, mountpoint, str(tmp_path / "notify"))
        channel.recv(4096)
        with open(mountpoint / ".taskfs/version"):
            done = taskfs("umount", "--lazy", mountpoint)
            assert (done.returncode, done.stderr) == (0, "")
            assert not is_mounted(mountpoint)
        assert process.wait(30) == 0
        process.communicate()

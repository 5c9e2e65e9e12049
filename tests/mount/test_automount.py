"""An automounter mounts taskfs at the first access. The automounter is the test: it speaks the
kernel's autofs protocol as systemd and automount(8) do. It runs the mount command in its own
process group, by which autofs recognises the processes that must not wait.

The automounter is the test: it speaks the kernel's autofs protocol as systemd and automount(8) do.
It runs the mount command in its own process group, by which autofs recognises the processes that
must not wait.
"""

import contextlib
import ctypes
import fcntl
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND
from tests.mounts import Taskfs, eventually, is_mounted, processes_naming

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("each_engine")]

LIBC: Final = ctypes.CDLL(None, use_errno=True)
# linux/auto_fs.h
READY: Final = 0x9360
FAIL: Final = 0x9361
CATATONIC: Final = 0x9362
PACKET: Final = struct.Struct("=iiI")  # the head of autofs_v5_packet: version, type, token
PACKET_SIZE: Final = 400
MNT_DETACH: Final = 2


class Automounter:
    """One autofs trigger on *base* with the mount command for what is beneath it."""

    def __init__(self, taskfs: Taskfs, base: Path, kind: str) -> None:
        self.taskfs = taskfs
        self._base = base
        self.mountpoint = base if kind == "direct" else base / "tasks"
        self.said = ""
        self._requests, writing = os.pipe()
        options = f"fd={writing},pgrp={os.getpgrp()},minproto=5,maxproto=5,{kind}".encode()
        failed = LIBC.mount(b"test", os.fsencode(base), b"autofs", 0, options)
        assert not failed, f"autofs: {os.strerror(ctypes.get_errno())}"
        self._root = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        os.close(writing)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while packet := os.read(self._requests, PACKET_SIZE):
            token = PACKET.unpack_from(packet)[2]
            if self.mountpoint != self._base:
                self.mountpoint.mkdir(exist_ok=True)
            done = self.taskfs("mount", "--allow-other", self.mountpoint)
            self.said = done.stderr
            fcntl.ioctl(self._root, FAIL if done.returncode else READY, token)

    def close(self) -> None:
        subprocess.run(["fusermount", "-uzq", self.mountpoint], check=False)
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._root, CATATONIC, 0)
        os.close(self._root)
        LIBC.umount2(os.fsencode(self._base), MNT_DETACH)


@pytest.fixture(params=["direct", "indirect"])
def automounter(
    request: pytest.FixtureRequest, tmp_path: Path, cloud: FakeCloud
) -> Iterator[Automounter]:
    base = tmp_path / "base"
    base.mkdir()
    automounter = Automounter(Taskfs(tmp_path, cloud), base, request.param)
    try:
        yield automounter
    finally:
        automounter.close()
        eventually(lambda: not processes_naming(automounter.mountpoint))


def listed(mountpoint: Path) -> "subprocess.CompletedProcess[str]":
    """List *mountpoint* as a user does, from another process group than the automounter's."""
    return subprocess.run(
        ["ls", "-A", mountpoint], capture_output=True, text=True, timeout=30, start_new_session=True
    )


def test_the_first_access_mounts(automounter: Automounter, cloud: FakeCloud) -> None:
    """E-21: The first access mounts."""
    task = cloud.add_task()
    done = listed(automounter.mountpoint)
    assert (done.returncode, automounter.said) == (0, "")
    assert task in done.stdout.split()
    eventually(lambda: len(processes_naming(automounter.mountpoint)) == 1)
    [pid] = processes_naming(automounter.mountpoint)
    assert os.getsid(pid) == pid  # once it is live, a terminal's end is not the daemon's


def test_a_failed_mount_is_an_error_and_the_next_access_tries_again(
    automounter: Automounter, cloud: FakeCloud
) -> None:
    """E-21: A failed automount is an error and never an empty directory, and the next access tries
    again."""
    task = cloud.add_task()
    cloud.faults.add("status", side="api", times=None, status=403)
    done = listed(automounter.mountpoint)
    assert done.returncode != 0
    assert done.stdout == ""
    assert automounter.said.count("\n") == 1
    cloud.faults.clear()
    eventually(lambda: task in listed(automounter.mountpoint).stdout.split())


def test_after_umount_the_next_access_mounts_again(
    automounter: Automounter, cloud: FakeCloud
) -> None:
    """E-21: `taskfs umount` leaves the automounter's trigger."""
    task = cloud.add_task()
    assert listed(automounter.mountpoint).returncode == 0
    words = [*COMMAND, "umount", str(automounter.mountpoint)]
    environment = automounter.taskfs.environment
    done = subprocess.run(
        words, env=environment, capture_output=True, text=True, start_new_session=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    eventually(lambda: processes_naming(automounter.mountpoint) == [])
    assert task in listed(automounter.mountpoint).stdout.split()
    assert is_mounted(automounter.mountpoint)


def test_the_case_needs_the_process_group() -> None:
    """A process of another group waits for the automounter: what these tests rely on."""
    program = "import os; print(os.getpgrp())"
    ours = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(ours.stdout) == os.getpgrp()

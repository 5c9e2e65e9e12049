"""The ways that are taken on other systems than Linux, forced here on Linux.

docs/architecture.md, Other systems: they are written for macOS and FreeBSD, and run on Linux only.
"""

import ctypes
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import pytest

from taskfs.cache.range_locks import pack_flock
from taskfs.config import Config
from taskfs.errors import MountError
from taskfs.fuse import daemonize, fusepy_loop, mount, mount_table, mountpoint
from taskfs.fuse.attributes import AttributePolicy
from taskfs.fuse.engine import MountOptions
from taskfs.fuse.engine_choice import choose_engines
from taskfs.fuse.event_operations import EventOperations
from taskfs.fuse.event_start import start_events
from taskfs.fuse.fusepy_engine import FusepyEngine
from taskfs.fuse.libfuse import libfuse_path
from taskfs.fuse.operations import TaskOperations
from taskfs.fuse.systemd import READY, ServiceManager
from taskfs.support import private_memory
from taskfs.support.clock import age_clock
from taskfs.support.stats import Stats
from taskfs.tree import control_nodes
from taskfs.tree.tree import Tree
from tests.threads import started_threads

MOUNTS = """\
/dev/disk1s1 on / (apfs, local, read-only, journaled)
taskfs on /Users/me/my tasks (macfuse, nodev, nosuid, synchronous, mounted by me)
fuse-t:/other on /Volumes/other (nfs, nodev, nosuid)
/dev/fuse on /home/me/tasks (fusefs.taskfs, nosuid)
/dev/fuse on /home/me/ssh (fusefs.sshfs, nosuid)
map auto_home on /System/Volumes/Data/home (autofs, automounted)
not a line of the table
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory at the front of PATH, for programs of another system."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def write_program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_mount_table_is_that_of_mount8(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without /proc/self/mountinfo the output of mount(8) is read."""
    monkeypatch.setattr(mount_table, "MOUNTINFO", str(tmp_path / "none"))
    (tmp_path / "table").write_text(MOUNTS)
    write_program(program / "mount", f"cat {tmp_path}/table")
    assert mount_table.our_mounts() == ["/Users/me/my tasks", "/home/me/tasks"]
    assert mount_table.mounted_types(Path("/System/Volumes/Data/home")) == ["autofs"]
    assert mount_table.mounted_device(Path("/home/me/tasks"))
    assert not mount_table.mounted_device(Path("/home/me/ssh"))


def test_without_any_table_nothing_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system without the table and without mount(8) has no mounts that can be named."""
    monkeypatch.setattr(mount_table, "MOUNTINFO", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mount_table.our_mounts() == []


@pytest.mark.parametrize(("lazy", "words"), [(False, ""), (True, "-f ")])
def test_umount8_unmounts(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lazy: bool, words: str
) -> None:
    """macOS and FreeBSD have no fusermount: umount(8) does it, with -f for what is in use."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(mount_table, "MOUNTINFO", str(tmp_path / "none"))
    write_program(program / "mount", f"echo 'taskfs on {tmp_path} (macfuse, nodev)'")
    write_program(program / "umount", f'echo "$@" > {tmp_path}/said')
    mountpoint.umount(tmp_path, lazy=lazy)
    assert (tmp_path / "said").read_text() == f"{words}{tmp_path}\n"
    write_program(program / "umount", "echo 'umount: resource busy' >&2; exit 1")
    with pytest.raises(MountError, match="is busy"):
        mountpoint.umount(tmp_path, lazy=lazy)


def test_whether_a_process_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without proc(5) the kernel is asked by a signal that is none: kill(2)."""
    monkeypatch.setattr(mountpoint, "PROC", str(tmp_path))
    with subprocess.Popen(["sleep", "60"]) as process:
        assert not mountpoint.has_ended(process.pid)
        process.kill()
    assert mountpoint.has_ended(process.pid)


def test_the_clock_counts_suspended_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """F-16: On macOS the age clock is CLOCK_MONOTONIC, which goes on during a sleep."""
    asked: list[int] = []

    def read(clock: int) -> float:
        asked.append(clock)
        return 5.0

    monkeypatch.setattr(time, "clock_gettime", read)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert age_clock() == 5.0
    assert asked == [time.CLOCK_MONOTONIC]


class _BsdFlock(ctypes.Structure):
    """struct flock of FreeBSD (sys/fcntl.h); that of macOS ends before the last field."""

    _fields_ = (
        ("l_start", ctypes.c_int64),
        ("l_len", ctypes.c_int64),
        ("l_pid", ctypes.c_int32),
        ("l_type", ctypes.c_short),
        ("l_whence", ctypes.c_short),
        ("l_sysid", ctypes.c_int),
    )


@pytest.mark.parametrize("platform", ["darwin", "freebsd14"])
def test_a_lock_has_the_systems_layout(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fcntl(2): Linux has type and whence first, the BSDs start and length."""
    monkeypatch.setattr(sys, "platform", platform)
    flock = _BsdFlock.from_buffer_copy(pack_flock(fcntl.F_WRLCK, 5 << 40, 7))
    assert (flock.l_start, flock.l_len, flock.l_pid) == (5 << 40, 7, 0)
    assert (flock.l_type, flock.l_whence, flock.l_sysid) == (fcntl.F_WRLCK, os.SEEK_SET, 0)


@pytest.mark.parametrize(("platform", "number"), [("darwin", 93), ("freebsd14", 87), ("linux", 61)])
def test_a_missing_attribute_has_the_systems_errno(platform: str, number: int) -> None:
    """ENOATTR of macOS and FreeBSD, ENODATA of Linux: getxattr(2)."""
    program = (
        f"import sys; sys.platform = {platform!r}\n"
        "import taskfs.errors; print(taskfs.errors.NoAttribute.errno)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == [str(number)], done.stderr


def test_memory_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc/self/statm the peak is shown; macOS counts it in bytes: getrusage(2)."""
    peak = control_nodes.peak_bytes()
    assert 0 < control_nodes.resident_bytes() < 4 * peak
    monkeypatch.setattr(private_memory, "STATM", str(tmp_path / "none"))
    assert peak <= control_nodes.resident_bytes() < 2 * peak
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak <= control_nodes.resident_bytes() * 1024 < 2 * peak


@pytest.mark.parametrize("platform", ["darwin", "freebsd14"])
def test_the_engine_is_fusepy(
    platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel engine speaks the protocol of Linux, and /dev/fuse need not be there."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(mount, "FUSE_DEVICE", tmp_path / "none")
    started: list[object] = []
    monkeypatch.setattr(daemonize, "start", lambda work, on_note: started.append(work))
    config = Config(cache_dir=tmp_path)
    (tmp_path / "mnt").mkdir()
    mount.mount(config, tmp_path / "mnt", foreground=False)
    assert len(started) == 1
    engines = choose_engines(config, tmp_path)
    assert (engines.name(), engines.pushes_pages) == ("fusepy", False)


def test_options_that_macfuse_does_not_know_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macFUSE mounts nosuid and nodev by itself, and has no subtype."""
    given: list[set[str]] = []
    monkeypatch.setattr(
        fusepy_loop, "FuseLoop", lambda calls, path, **options: given.append(set(options))
    )
    monkeypatch.setenv("FUSE_LIBRARY_PATH", libfuse_path())
    engine = FusepyEngine(tmp_path, MountOptions(noexec=True))
    operations = TaskOperations(cast(Tree, None), AttributePolicy(), Stats())
    for platform in ("linux", "darwin"):
        monkeypatch.setattr(sys, "platform", platform)
        engine.serve(operations, lambda: None, lambda: None)
    assert given[0] - given[1] == {"nosuid", "nodev", "noexec", "subtype"}
    assert given[1]


def test_without_a_service_manager_that_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems without SOCK_CLOEXEC have no systemd either."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.delattr("socket.SOCK_CLOEXEC")
    assert ServiceManager().notify(READY) is False


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_no_events_without_inotify(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems have neither inotify nor /proc: no thread looks for watches there."""
    monkeypatch.setattr(sys, "platform", "darwin")
    tree, operations = cast(Tree, None), cast(EventOperations, None)
    with started_threads(monkeypatch) as started:
        stop = start_events(tree, operations, "/mnt", "", attr_timeout_s=1, mode=mode)
    assert started == []
    stop()

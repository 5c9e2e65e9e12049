"""kill -9, signals, a busy mount, a crowd of readers, an interrupted start. Ctrl+C and blocked
readers: test_interrupts.py; sleep and clocks: test_sleep.py."""

import contextlib
import errno
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from taskfs.fuse.mountpoint import has_ended
from tests.fake_api import FakeCloud
from tests.faults.scenarios import finished
from tests.file_systems import assert_same, errno_of
from tests.fork_server import COMMAND
from tests.mounts import Mount, Taskfs, eventually, is_mounted, processes_naming
from tests.outputs import LONG_AGO, noise
from tests.zips import DEFLATED

pytestmark = pytest.mark.mount

THREADS: Final = 64
SLACK_S: Final = 15.0  # a busy machine; a hanging read lasts 30 s, the timeout
FILES: Final = 200


def threads_of(pid: int) -> int:
    """Return how many threads a process has (proc(5))."""
    return len(os.listdir(f"/proc/{pid}/task"))


@pytest.mark.usefixtures("each_engine")
def test_umount_of_a_busy_mount_fails_and_leaves_it_mounted(
    new_mount: Callable[..., Mount],
) -> None:
    """E-3, E-4: `umount` of a busy mount says so and leaves it intact; `--lazy` detaches it."""
    mount = new_mount()
    content = os.urandom(2_000_000)
    task = mount.cloud.add_task(outputs={"a": content}, end_time=LONG_AGO)
    with open(mount.path / task / "outputs/a", "rb") as opened:
        assert opened.read(10) == content[:10]
        done = mount.taskfs("umount", mount.path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "busy" in done.stderr
        assert "--lazy" in done.stderr
        assert (mount.path / task / "status").read_text() == "success\n"
        pid = mount.pid
        done = mount.taskfs("umount", "--lazy", mount.path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert not is_mounted(mount.path)
        assert opened.read() == content[10:]  # open files keep working
        assert Path(f"/proc/{pid}").exists()
    eventually(lambda: not processes_naming(mount.path))


def killed(mount: Mount) -> None:
    """End the daemon of *mount* as the system does that is out of memory."""
    pid = mount.pid
    os.kill(pid, signal.SIGKILL)
    # Its last thread closes /dev/fuse, and that may not be the one which the process is named by.
    eventually(lambda: has_ended(pid) and len(list(Path(f"/proc/{pid}/task").glob("*"))) < 2)


@pytest.mark.usefixtures("each_engine")
def test_a_mount_whose_daemon_was_killed_stays_and_fails(new_mount: Callable[..., Mount]) -> None:
    """E-2: If the daemon dies, the mount stays and answers ENOTCONN."""
    mount = new_mount()
    task = mount.cloud.add_task()
    version = mount.path / ".taskfs/version"
    live = ["cat", str(version)]  # what the README gives scripts as the test for a live mount
    assert subprocess.run(live, stdout=subprocess.DEVNULL).returncode == 0
    killed(mount)
    assert is_mounted(mount.path)
    # A call that the kernel takes before it has closed the device ends with ECONNABORTED.
    eventually(lambda: errno_of(lambda: os.statvfs(mount.path)) == errno.ENOTCONN)
    for path in (mount.path, mount.path / task, version):
        assert errno_of(partial(os.statvfs, path)) == errno.ENOTCONN
    assert subprocess.run(live, stderr=subprocess.DEVNULL).returncode == 1
    mount.stop()
    assert os.listdir(mount.path) == []
    assert subprocess.run(live, stderr=subprocess.DEVNULL).returncode == 1


@pytest.mark.usefixtures("each_engine")
def test_a_backup_survives_the_end_of_the_daemon(
    new_mount: Callable[..., Mount], cloud: FakeCloud, tmp_path: Path
) -> None:
    """E-2, E-18: `rsync --delete` from a dead mount fails and deletes nothing."""
    task = cloud.add_task(outputs={"a": b"x" * 1000}, end_time=LONG_AGO)
    mount = new_mount()
    backup = tmp_path / "backup"
    rsync = ["rsync", "-a", "--delete", f"{mount.path}/", f"{backup}/"]
    assert subprocess.run(rsync, timeout=60).returncode == 0
    assert (backup / task / "outputs/a").read_bytes() == b"x" * 1000
    killed(mount)
    done = subprocess.run(rsync, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0, done.stderr
    assert (backup / task / "outputs/a").read_bytes() == b"x" * 1000


@pytest.mark.usefixtures("each_engine")
def test_after_kill_9_of_the_daemon_the_same_mount_command_works(
    new_mount: Callable[..., Mount],
) -> None:
    """E-2: After `kill -9` of the daemon the same mount command works."""
    mount = new_mount()
    task = mount.cloud.add_task(status="started")
    os.kill(mount.pid, signal.SIGKILL)
    mount.start()
    assert (mount.path / task / "status").read_text() == "started\n"
    (mount.path / task / "kill").write_text("1")
    assert mount.cloud.killed == [task]


@pytest.mark.usefixtures("each_engine")
def test_a_dead_mount_can_be_unmounted_though_it_is_in_use(
    new_mount: Callable[..., Mount],
) -> None:
    """E-2: `taskfs umount` removes a dead mount, in use or not."""
    mount = new_mount()
    with open(mount.path / ".taskfs/version", "rb"):
        killed(mount)
        done = mount.taskfs("umount", mount.path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert os.listdir(mount.path) == []


def test_doctor_names_each_dead_mount_and_the_fix(
    new_mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """E-2, C-23: `taskfs doctor` lists dead mounts, and its fix, pasted, ends them."""
    dead, alive = [new_mount(), new_mount()], new_mount()
    for mount in dead:
        killed(mount)
    done = alive.taskfs("doctor")
    line = next(line for line in done.stdout.splitlines() if " mounts: " in line)
    assert line.startswith("FAIL")
    assert str(alive.path) not in line
    assert all(str(mount.path) in line for mount in dead)
    fix = line[line.index("for m in") :]
    # The line names dead mounts of other tests and programs as well: they are left alone.
    ours = f'{shlex.quote(str(tmp_path))}/*) {shlex.join(COMMAND)} "$@" ;;'
    script = f'taskfs() {{ case "$2" in {ours} esac; }}; {fix}'
    subprocess.run(["sh", "-c", script], check=True, env=alive.taskfs.environment, timeout=60)
    assert not any(is_mounted(mount.path) for mount in dead)
    assert is_mounted(alive.path)


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("delay_s", [0.1, 0.2, 0.3, 0.4, 0.6])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_any_time_of_a_start_leaves_no_mount(
    tmp_path: Path, cloud: FakeCloud, delay_s: float, number: int
) -> None:
    """E-1, E-11: A signal at any time of the start leaves no mount."""
    taskfs, mountpoint = Taskfs(tmp_path, cloud), tmp_path / "mnt"
    mountpoint.mkdir()
    with subprocess.Popen(
        [*COMMAND, "mount", "-f", str(mountpoint)],
        env=taskfs.environment,
        stderr=subprocess.DEVNULL,
    ) as process:
        time.sleep(delay_s)
        process.send_signal(number)
        process.wait(30)
    assert not is_mounted(mountpoint)


FAILING_DEVICE: Final = """
import errno, itertools, os, sys
import taskfs.cli.main
readv, reads, good = os.readv, itertools.count(1), int(sys.argv[1])

def failing(*args):
    received = readv(*args)
    if next(reads) > good:
        raise OSError(errno.EIO, "Input/output error")
    return received

os.readv = failing
del sys.argv[1]
# Not `sys.exit`: OpenSSL's cleanup would crash the thread that still reads certificates.
taskfs.cli.main.run()
"""


@pytest.mark.parametrize("flags", [[], ["-f"]])
@pytest.mark.parametrize("good", [0, 1, 20])
def test_a_failure_that_ends_the_daemon_unmounts(
    tmp_path: Path, cloud: FakeCloud, good: int, flags: list[str]
) -> None:
    """E-5, E-11: A mount that fails to start leaves nothing mounted, and a daemon that a failure
    ends unmounts."""
    taskfs, mountpoint = Taskfs(tmp_path, cloud), tmp_path / "mnt"
    mountpoint.mkdir()
    arguments = ["mount", "--engine", "kernel", *flags, str(mountpoint)]
    words = [sys.executable, "-c", FAILING_DEVICE, str(good), *arguments]
    with subprocess.Popen(
        words, env=taskfs.environment, stderr=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        eventually(lambda: is_mounted(mountpoint) or process.poll() is not None)
        while is_mounted(mountpoint):  # without a request the device is not read again
            with contextlib.suppress(OSError):
                (mountpoint / ".taskfs/version").read_bytes()
            time.sleep(0.01)
        assert process.stderr is not None
        stderr = process.stderr.read()
        process.wait(30)
    if not good or flags:
        assert process.returncode == 1
        assert stderr.count("taskfs: the mount ended") == 1
    eventually(lambda: not processes_naming(mountpoint))
    assert not is_mounted(mountpoint)


HANGING_CLOSE: Final = """
import threading
import taskfs.cli.main, taskfs.core
taskfs.core.Core.close = lambda core: threading.Event().wait()
taskfs.cli.main.run()
"""


def test_an_unmount_ends_the_process_though_closing_hangs(tmp_path: Path, cloud: FakeCloud) -> None:
    """E-5, E-10: The process ends soon after the unmount, whatever it waits for while it closes."""
    taskfs, mountpoint = Taskfs(tmp_path, cloud), tmp_path / "mnt"
    mountpoint.mkdir()
    words = [sys.executable, "-c", HANGING_CLOSE, "mount", "-f", str(mountpoint)]
    with subprocess.Popen(words, env=taskfs.environment, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: is_mounted(mountpoint))
            done = taskfs("umount", mountpoint)
            assert (done.returncode, done.stderr) == (0, "")
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.usefixtures("each_engine")
def test_an_aborted_connection_ends_the_mount_without_a_failure(
    new_mount: Callable[..., Mount],
) -> None:
    """E-1: A connection that root aborts ends the mount without a failure."""
    mount = new_mount()
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    device = next(line.split()[2] for line in mounts if line.split()[4] == str(mount.path))
    control = Path("/sys/fs/fuse/connections")
    if not (control / device.split(":")[1]).exists():
        # It fails if a test beside this one was faster.
        subprocess.run(["mount", "-t", "fusectl", "none", control], check=False)
    pid = mount.pid
    (control / device.split(":")[1] / "abort").write_text("1")
    eventually(lambda: has_ended(pid))
    assert not is_mounted(mount.path)
    assert "CRITICAL" not in mount.log.read_text()


@pytest.mark.usefixtures("each_engine")
def test_a_signal_to_an_old_daemon_leaves_the_new_mount_alone(
    new_mount: Callable[..., Mount],
) -> None:
    """E-4, E-8: The end of a daemon that was detached leaves a newer mount on its mountpoint in
    place."""
    mount = new_mount()
    with open(mount.path / ".taskfs/version", "rb"):
        old = mount.pid
        assert mount.taskfs("umount", "--lazy", mount.path).returncode == 0
        mount.start()
        os.kill(old, signal.SIGTERM)
        eventually(lambda: has_ended(old))
        assert mount.pid != old


@pytest.mark.usefixtures("each_engine")
def test_a_signal_unmounts_within_5_s_though_a_read_is_in_flight(
    new_mount: Callable[..., Mount],
) -> None:
    """E-1: SIGTERM, SIGINT and SIGHUP unmount within 5 s with a read in flight."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    mounts = [new_mount() for _ in signals]
    cloud = mounts[0].cloud
    task = cloud.add_task(outputs={"a": os.urandom(300_000)}, end_time=LONG_AGO)
    files = [mount.path / task / "outputs/a" for mount in mounts]
    assert {file.stat().st_size for file in files} == {300_000}
    daemons = [mount.pid for mount in mounts]
    cloud.faults.add("stall", side="store", times=None)
    readers = [
        subprocess.Popen(["cat", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for file in files
    ]
    time.sleep(0.3)
    for daemon, number in zip(daemons, signals, strict=True):
        os.kill(daemon, number)
    eventually(lambda: not any(processes_naming(mount.path) for mount in mounts), 5 + SLACK_S)
    for reader, mount in zip(readers, mounts, strict=True):
        assert not is_mounted(mount.path)
        assert reader.wait(30) == 1  # whose read failed, not ended


@pytest.mark.parametrize("foreground", [[], ["-f"]])
def test_a_start_that_is_interrupted_leaves_nothing(
    tmp_path: Path, cloud: FakeCloud, foreground: list[str]
) -> None:
    """E-11: Ctrl+C while the API does not answer ends `taskfs mount` at once, and no mount appears
    later."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    cloud.faults.add("stall", times=None)
    with subprocess.Popen(
        [*COMMAND, "mount", *foreground, str(mountpoint)],
        env=Taskfs(tmp_path, cloud).environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        eventually(lambda: bool(cloud.requests))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, "Traceback" in err) == ("", False)
    cloud.faults.clear()
    eventually(lambda: not processes_naming(mountpoint))
    assert not is_mounted(mountpoint)
    assert os.listdir(mountpoint) == []


@pytest.mark.usefixtures("each_engine")
def test_many_readers_neither_deadlock_nor_exhaust_threads(
    new_mount: Callable[..., Mount],
) -> None:
    """R-19: 64 threads with 200 open files under transient faults neither deadlock nor exhaust
    threads."""
    mount = new_mount(timeout="20s")
    cloud = mount.cloud
    names = [f"f{number:03}" for number in range(FILES // 2)]
    bodies = {name: noise(n, 40_000 + 700 * n) for n, name in enumerate(names)}
    tasks = [finished(cloud, **bodies), finished(cloud, DEFLATED, **bodies)]

    def stats() -> dict[str, int]:
        counts: dict[str, int] = json.loads((mount.path / ".taskfs/stats.json").read_text())
        return counts

    before = threads_of(mount.pid)
    dice = random.Random(5)
    cloud.faults.add("status", status=503, times=25, match=lambda _: dice.random() < 0.1)
    cloud.faults.add(
        "short", side="store", after_bytes=9000, times=25, match=lambda _: dice.random() < 0.1
    )
    files = [(f"{task}/outputs/{name}", bodies[name]) for task in tasks for name in names]
    with ThreadPoolExecutor(THREADS) as pool:
        opened = list(pool.map(lambda file: os.open(mount.path / file[0], os.O_RDONLY), files))
        try:
            eventually(lambda: stats()["open_handles"] >= FILES)

            def read(number: int) -> None:
                at = number * 7919 % FILES
                body, middle = files[at][1], len(files[at][1]) // 2
                assert_same(os.pread(opened[at], 1 << 20, middle), body[middle:])
                assert_same(os.pread(opened[at], 1 << 20, 0), body)

            list(pool.map(read, range(2 * FILES), timeout=120))
            assert threads_of(mount.pid) < before + 2 * THREADS
        finally:
            for descriptor in opened:
                os.close(descriptor)
    eventually(lambda: threads_of(mount.pid) < before + 60)
    eventually(lambda: stats()["open_handles"] < 5)


@pytest.mark.usefixtures("each_engine")
def test_many_unanswered_reads_fail_in_time_and_succeed_later(
    new_mount: Callable[..., Mount],
) -> None:
    """X-15, R-19: The last reader in a queue gets its error soon after the first, and all are
    served later."""
    mount = new_mount(timeout="4s")
    cloud = mount.cloud
    bodies = {f"f{number:03}": noise(number, 70_000) for number in range(THREADS)}
    task = finished(cloud, **bodies, z=noise(1, 200_000))
    assert (mount.path / task / "outputs/z").stat().st_size == 200_000
    cloud.faults.add("stall", times=None)

    def read(name: str) -> int:
        try:
            (mount.path / task / "outputs" / name).read_bytes()
        except OSError as exc:
            return exc.errno or 0
        return 0

    began = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = set(pool.map(read, bodies))
    took_s = time.monotonic() - began
    assert outcomes == {errno.ETIMEDOUT}
    assert took_s < 120, took_s  # each in turn: 256 s and more
    cloud.faults.clear()
    with ThreadPoolExecutor(THREADS) as pool:
        assert set(pool.map(read, bodies)) == {0}


@pytest.mark.usefixtures("each_engine")
def test_a_connection_that_is_aborted_ends_the_daemon_though_a_read_is_in_flight(
    new_mount: Callable[..., Mount],
) -> None:
    """E-5: When the kernel's connection is aborted, the daemon ends within seconds although a read
    is in flight."""
    mount = new_mount()
    task = mount.cloud.add_task(outputs={"a": os.urandom(300_000)}, end_time=LONG_AGO)
    assert (mount.path / task / "outputs/a").stat().st_size == 300_000
    mount.cloud.faults.add("stall", side="store", times=None)
    with subprocess.Popen(
        ["cat", mount.path / task / "outputs/a"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as reader:
        time.sleep(0.3)
        subprocess.run(["umount", "-f", mount.path], stderr=subprocess.DEVNULL, check=False)
        assert reader.wait(30) == 1
    eventually(lambda: not processes_naming(mount.path), 8 + SLACK_S)

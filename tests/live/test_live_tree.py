"""`live/` in the tree, in process and on a mount."""

import errno
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from taskfs.model import KNOWN_STATUSES
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, assert_same, errno_of, text, walk
from tests.live.conftest import BUSY_S
from tests.mounts import Mount, eventually
from tests.outputs import put_outputs

NewFs = Callable[..., FileSystem]
LINES = b"".join(b"%06d residual 0.25\n" % number for number in range(250_000))


def signalled(cloud: FakeCloud) -> list[str]:
    words = ("register", "offer", "message")
    return [r.path for r in cloud.requests if r.path.rpartition("/")[2] in words]


def connect_once(fs: FileSystem) -> None:
    """Connect to the machine of a task of its own: the first connection imports aiortc."""
    task = fs.cloud.add_task(status="computation-started")
    fs.cloud.machine_files(task).write("stdout.txt", b"one\n")
    eventually(lambda: _exists(fs, f"{task}/live/stdout.txt"))


def _exists(fs: FileSystem, path: str) -> bool:
    try:
        fs.stat(path)
    except (FileNotFoundError, TimeoutError):
        return False
    return True


@pytest.mark.parametrize("status", KNOWN_STATUSES)
def test_when_it_is_listed(fs: FileSystem, status: str) -> None:
    """L-1: In `computation-started`, `computation-ended` and `pending-kill`, a task's directory
    lists `live/`. In every other status, it exists by name only, is empty, and causes no request.
    """
    task = fs.cloud.add_task(status=status, outputs={"stdout.txt": b"x"})
    fs.cloud.machine_files(task).write("stdout.txt", b"one\n")
    is_live = status in ("computation-started", "computation-ended", "pending-kill")
    assert ("live" in fs.names(task)) == is_live
    assert stat.S_ISDIR(fs.stat(f"{task}/live").st_mode)
    if is_live:
        assert fs.names(f"{task}/live") == ["stdout.txt"]
    else:
        assert fs.names(f"{task}/live") == []
        assert errno_of(lambda: fs.stat(f"{task}/live/stdout.txt")) == errno.ENOENT
        assert fs.cloud.machine(task).connections == 0
        assert not [path for path in signalled(fs.cloud) if task in path]


def test_looking_beside_it_asks_no_machine(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-1: Listing the task's directory, reading its text files and `ls -l` of the root open no
    connection."""
    fs = new_fs()
    for name in fs.names():
        fs.stat(name)
    for name in fs.names(task):
        fs.stat(f"{task}/{name}")
    assert text(fs, f"{task}/status") == "computation-started\n"
    assert fs.names(f"{task}/outputs") == []
    assert signalled(cloud) == []
    assert cloud.machine(task).connections == 0
    assert fs.names(f"{task}/live") == ["stdout.txt", "log"]
    assert cloud.machine(task).connections == 1


def test_live_off(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-1: `--live off` removes it."""
    fs = new_fs(live="off")
    assert "live" not in fs.names(task)
    assert errno_of(lambda: fs.stat(f"{task}/live")) == errno.ENOENT
    assert signalled(cloud) == []


def test_the_machines_tree(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-1, L-4: `live/` shows the output directory of the task's machine; names are bytes."""
    written = cloud.machine_files(task)
    written.write("empty/", b"")
    written.write("caf\udce9.txt", b"x\n\n")
    fs = new_fs()
    assert sorted(walk(fs, f"{task}/live")) == ["caf\udce9.txt", "log/solver.log", "stdout.txt"]
    assert fs.names(f"{task}/live/empty") == []
    assert fs.read(f"{task}/live/caf\udce9.txt") == b"x\n\n"
    assert errno_of(lambda: fs.stat(f"{task}/live/none")) == errno.ENOENT
    assert errno_of(lambda: fs.stat(f"{task}/live/stdout.txt/x")) == errno.ENOTDIR
    assert errno_of(lambda: fs.read(f"{task}/live/log")) == errno.EISDIR
    with pytest.raises(OSError) as refused, fs.open(f"{task}/live/stdout.txt", os.O_WRONLY):
        pass
    assert refused.value.errno in (errno.EROFS, errno.EACCES)


def test_sizes(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-2: `stat` of a file that was never read fetches no content and reports 0. Once the file
    was read, `stat` asks the machine, and reports the exact size."""
    fs = new_fs()
    path = f"{task}/live/stdout.txt"
    assert fs.stat(path).st_size == 0
    assert {question["type"] for question in cloud.machine(task).questions} == {"ls"}
    assert fs.read(path) == b"one\ntwo\nthree\n"
    assert fs.stat(path).st_size == 14
    cloud.machine_files(task).append("stdout.txt", b"four\n")
    eventually(lambda: fs.stat(path).st_size == 19)


def test_a_snapshot_grows_at_its_end(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-3: Reads below the snapshot's end come from the snapshot. A read that reaches the end
    asks the machine for what was appended; reads never wait for data at the end of a file."""
    written = cloud.machine_files(task)
    fs = new_fs()
    with fs.open(f"{task}/live/stdout.txt") as opened:
        assert opened.read_at(4, 3) == b"two"
        written.append("stdout.txt", b"four\n")
        before = len(cloud.machine(task).questions)
        assert opened.read_at(0, 14) == b"one\ntwo\nthree\n"
        assert len(cloud.machine(task).questions) == before
        eventually(lambda: opened.read_at(14, 4096) == b"four\n")
        began_s = time.monotonic()
        assert opened.read_at(19, 4096) == b""
        assert time.monotonic() - began_s < BUSY_S


def test_a_rewritten_file(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-4: A file that was rewritten or removed under an open handle fails with ESTALE there.
    The next open sees the new file."""
    fs = new_fs()
    path = f"{task}/live/stdout.txt"
    with fs.open(path) as opened:
        assert opened.read_at(0, 3) == b"one"
        cloud.machine_files(task).write("stdout.txt", b"another\nbeginning\n")
        time.sleep(0.6)
        assert errno_of(lambda: opened.read_at(3, 4096)) == errno.ESTALE
    assert fs.read(path) == b"another\nbeginning\n"


def test_a_large_file(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-6: The end of a large file is served behind a hole of 1 TiB. Reading the hole fails
    with EFBIG. A read is never short."""
    cloud.machine_files(task).write("stdout.txt", LINES)
    fs = new_fs(timeout="2m")
    path = f"{task}/live/stdout.txt"
    with fs.open(path) as opened:
        assert errno_of(lambda: opened.read_at(0, 4096)) == errno.EFBIG
    found = fs.stat(path)
    assert found.st_size > 1 << 40
    assert 2 << 20 < 512 * found.st_blocks < 6 << 20
    with fs.open(path) as opened:
        end = opened.read_at(found.st_size - 100_000, 100_000)
    assert_same(end, LINES[-100_000:])


def test_unreadable_and_empty_files(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-7: A file that is not UTF-8 text fails with EOPNOTSUPP when it is opened. Text files
    beside it are read."""
    written = cloud.machine_files(task)
    written.write("stderr.txt", b"")
    written.write("restart.bin", bytes(range(256)) * 20)
    fs = new_fs()
    assert fs.read(f"{task}/live/stderr.txt") == b""
    assert errno_of(lambda: fs.read(f"{task}/live/restart.bin")) == errno.EOPNOTSUPP
    assert fs.read(f"{task}/live/stdout.txt") == b"one\ntwo\nthree\n"


def test_a_silent_machine(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-8: A machine that cannot be reached is ETIMEDOUT within `--timeout`, remembered for
    10 s for the whole task. A silent machine holds up no other task."""
    other = cloud.add_task(status="computation-ended")
    cloud.machine_files(other).write("stdout.txt", b"fine\n")
    cloud.machine(task).ignores_offers = True
    fs = new_fs(timeout="8s")
    connect_once(fs)
    failed: list[int | None] = []

    def look() -> None:
        failed.append(errno_of(lambda: fs.names(f"{task}/live")))

    began_s = time.monotonic()
    thread = threading.Thread(target=look)
    thread.start()
    assert fs.read(f"{other}/live/stdout.txt") == b"fine\n"
    assert not failed
    thread.join()
    assert failed == [errno.ETIMEDOUT]
    assert time.monotonic() - began_s < BUSY_S
    requests = signalled(cloud)
    for name in ("a", "b", "stdout.txt"):
        assert errno_of(lambda name=name: fs.stat(f"{task}/live/{name}")) == errno.ETIMEDOUT  # type: ignore[misc]
    assert signalled(cloud) == requests
    cloud.machine(task).ignores_offers = False
    with fs.open(".taskfs/refresh", os.O_WRONLY) as refresh:
        refresh.write(b"1\n")
    assert fs.names(f"{task}/live") == ["stdout.txt", "log"]


def test_an_answer_without_sense(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-8: An answer that makes no sense is EIO; never an empty directory."""
    cloud.machine(task).faults.add("nonsense", text="[[1]]", times=None)
    fs = new_fs()
    assert errno_of(lambda: fs.names(f"{task}/live")) == errno.EIO


def end_task(cloud: FakeCloud, task: str, files: dict[str, bytes] | None) -> None:
    """End the task as the service does: the status first, then the machine says goodbye."""
    cloud.set_status(task, "success")
    cloud.machine_files(task).remove_directory()
    cloud.hang_up(task)
    if files is not None:
        put_outputs(cloud, task, files)


def test_an_open_file_goes_on_from_the_archive(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-9: When the task ends while a file is open, reading goes on from the archive's member.
    Then `live/` is empty, and `outputs/` has all files."""
    fs = new_fs()
    path = f"{task}/live/log/solver.log"
    whole = b"residual 1\nresidual 2\nresidual 3\nend\n"
    with fs.open(path) as opened:
        assert opened.read_at(0, 4096) == b"residual 1\nresidual 2"
        end_task(cloud, task, None)
        eventually(lambda: "live" not in fs.names(task))
        assert fs.stat(path).st_size == 21
        assert opened.read_at(5, 4096) == b"ual 1\nresidual 2"
        put_outputs(cloud, task, {"stdout.txt": b"one\n", "log/solver.log": whole})
        eventually(lambda: fs.stat(path).st_size == len(whole))
        assert opened.read_at(21, 4096) == whole[21:]
        assert opened.read_at(0, 4096) == whole
    assert fs.names(f"{task}/live") == []
    eventually(lambda: not _exists(fs, path))
    assert fs.read(f"{task}/outputs/log/solver.log") == whole


def test_what_a_stat_reported_is_read_after_the_end(
    new_fs: NewFs, cloud: FakeCloud, task: str
) -> None:
    """L-9, L-6: A read is never short: an open file returns all bytes that a stat reported before
    the end, also if its own last read was earlier."""
    fs = new_fs()
    path = f"{task}/live/stdout.txt"
    with fs.open(path) as opened:
        assert opened.read_at(0, 14) == b"one\ntwo\nthree\n"
        cloud.machine_files(task).append("stdout.txt", b"four\n")
        eventually(lambda: fs.stat(path).st_size == 19)
        time.sleep(0.6)  # the machine is asked again
        end_task(cloud, task, None)
        assert opened.read_at(14, 4096) == b"four\n"
        assert fs.stat(path).st_size == 19


def test_an_archive_that_does_not_go_on(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-9: otherwise it fails with ESTALE."""
    fs = new_fs(timeout="8s")  # a read of the missing file waits that long for another archive
    connect_once(fs)
    with fs.open(f"{task}/live/stdout.txt") as opened:
        assert opened.read_at(0, 3) == b"one"
        with fs.open(f"{task}/live/log/solver.log") as missing:
            end_task(cloud, task, {"stdout.txt": b"something else and longer\n"})
            time.sleep(0.6)
            assert errno_of(lambda: opened.read_at(0, 4096)) == errno.ESTALE
            assert errno_of(lambda: missing.read_at(0, 4096)) == errno.ESTALE


def test_the_end_of_a_large_file(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-9: reading goes on from the archive's member, behind the hole of a large file, too."""
    cloud.machine_files(task).write("stdout.txt", LINES)
    fs = new_fs(timeout="2m")
    path = f"{task}/live/stdout.txt"
    with fs.open(path) as opened:
        size = fs.stat(path).st_size
        end_task(cloud, task, {"stdout.txt": LINES + b"the end\n"})
        eventually(lambda: fs.stat(path).st_size == size + 8)
        assert opened.read_at(size - 5, 4096) == LINES[-5:] + b"the end\n"


def test_a_goodbye_alone_does_not_end_the_files(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-8: a connection that ends is made anew while the task is live."""
    fs = new_fs()
    assert fs.read(f"{task}/live/stdout.txt") == b"one\ntwo\nthree\n"
    cloud.hang_up(task)
    time.sleep(0.6)
    assert fs.read(f"{task}/live/stdout.txt") == b"one\ntwo\nthree\n"


@pytest.mark.mount
def test_the_idle_connection_is_closed(
    new_mount: Callable[..., Mount], cloud: FakeCloud, task: str, tmp_path: Path
) -> None:
    """L-10: It is closed after `TASKFS_LIVE_IDLE_TIME` without a question, and at unmount."""
    mount = Mount(cloud, tmp_path / "mnt", tmp_path)
    mount.path.mkdir()
    mount.taskfs.environment["TASKFS_LIVE_IDLE_TIME"] = "1s"
    mount.start()
    try:
        assert os.listdir(mount.path / task / "live") == ["stdout.txt", "log"]
        eventually(lambda: cloud.machine(task).open_connections == 0)
        assert cloud.machine(task).connections == 1
    finally:
        mount.stop()
    mount.check_log()
    other = new_mount()
    assert os.listdir(other.path / task / "live") == ["stdout.txt", "log"]
    assert cloud.machine(task).open_connections == 1
    other.stop()
    eventually(lambda: cloud.machine(task).open_connections == 0)


@pytest.mark.mount
def test_ctrl_c_frees_the_reader(mnt: Path, cloud: FakeCloud, task: str) -> None:
    """L-8: Ctrl+C frees a reader within 1 s."""
    cloud.machine(task).ignores_offers = True
    reader = subprocess.Popen(["ls", mnt / task / "live"], stderr=subprocess.PIPE)
    eventually(lambda: any(path.endswith("message") for path in signalled(cloud)))
    assert reader.poll() is None
    reader.terminate()
    reader.communicate(timeout=15)  # without it, `--timeout` would end the wait after 30 s


def test_the_end_is_met_by_a_lookup(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-9: The first program that finds the machine gone is not held up by its absence."""
    fs = new_fs(status_cache_time="60s", attr_timeout="100ms")
    path = f"{task}/live/stdout.txt"
    with fs.open(path) as opened:
        assert opened.read_at(0, 4096) == b"one\ntwo\nthree\n"
        time.sleep(1.1)
        end_task(cloud, task, None)
        began_s = time.monotonic()
        assert fs.stat(path).st_size == 14
        assert opened.read_at(4, 4096) == b"two\nthree\n"
        assert time.monotonic() - began_s < 8.0
    assert len([path for path in signalled(cloud) if path.endswith("register")]) == 1


def test_the_end_is_met_by_several_readers(new_fs: NewFs, cloud: FakeCloud, task: str) -> None:
    """L-9: Readers that find the machine gone at the same time are not held up by its absence:
    the one that asks for the status wakes the others, which may be waiting for a new connection."""
    fs = new_fs(status_cache_time="60s", attr_timeout="100ms")
    paths = [f"{task}/live/{name}" for name in ("stdout.txt", "log/solver.log")]
    with fs.open(paths[0]) as first, fs.open(paths[1]) as second:
        assert [len(opened.read_at(0, 4096)) for opened in (first, second)] == [14, 21]
        time.sleep(1.1)
        end_task(cloud, task, None)
        began_s = time.monotonic()
        stats = [threading.Thread(target=fs.stat, args=(path,)) for path in paths]
        for thread in stats:
            thread.start()
        for thread in stats:
            thread.join()
        assert time.monotonic() - began_s < 8.0

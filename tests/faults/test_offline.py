"""A mount without the network, with `--offline` and without it."""

import contextlib
import errno
import json
import os
import random
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from taskfs.fuse.mountpoint import umount
from tests.fake_api import FakeCloud
from tests.file_systems import Mounted, assert_same, walk
from tests.mounts import Mount, Taskfs, is_mounted
from tests.outputs import LONG_AGO, QUICK, put_outputs
from tests.zips import Entry, build

pytestmark = pytest.mark.mount

TEXTS: Final = ("status", "machine_type", "computation_time", "output_files_info", "info.json")
PATIENT: Final = "300s"  # a timeout: a call that takes less time has not waited for it
AT_ONCE_S: Final = 60.0
MountFactory = Callable[..., contextlib.AbstractContextManager[Mount]]


def finished(cloud: FakeCloud, **fields: Any) -> tuple[str, dict[str, bytes]]:
    """Add a finished task with outputs and inputs; return it and its output files."""
    task = cloud.add_task(end_time=LONG_AGO, input_submit_time=LONG_AGO, **fields)
    files = {
        "small": f"a few bytes of {task}\n".encode(),
        "text": b"".join(b"%d line\n" % number for number in range(60_000)),
        "deep/noise": random.Random(task).randbytes(700_000),
    }
    put_outputs(cloud, task, files)
    cloud.put_object(f"{task}/input.zip", build([Entry(b"sim_dir/case", b"what to do\n")]))
    return task, files


@pytest.fixture
def mounted(cloud: FakeCloud, tmp_path: Path) -> MountFactory:
    """Mounts the cloud, always with the one cache of the test; offline without a key."""

    @contextlib.contextmanager
    def mount(**options: str) -> Iterator[Mount]:
        home = tmp_path / f"mount{len(os.listdir(tmp_path))}"
        home.mkdir()
        mountpoint = home / "mnt"
        mountpoint.mkdir()
        mount = Mount(
            cloud,
            mountpoint,
            home,
            {"cache_dir": str(tmp_path / "cache"), "timeout": PATIENT} | options,
        )
        if "offline" in options:
            del mount.taskfs.environment["INDUCTIVA_API_KEY"]
        try:
            yield mount.start()
        finally:
            mount.stop()
            mount.check_log()

    return mount


@pytest.fixture
def at_once() -> Iterator[None]:
    """Fail a test that waited for a timeout: all that it does is answered at once."""
    began_s = time.monotonic()
    yield
    assert time.monotonic() - began_s < AT_ONCE_S


@contextlib.contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


def seen(fs: Mounted, task: str) -> dict[str, bytes]:
    """Return everything that the tree shows of a task: texts, members, archive, attributes."""
    found = {name: fs.read(f"{task}/{name}") for name in (*TEXTS, "error", "kill", "output.zip")}
    for top in ("outputs", "inputs"):
        for name in walk(fs, f"{task}/{top}"):
            found[f"{top}/{name}"] = fs.read(f"{task}/{top}/{name}")
    for name in (*found, "outputs", "outputs/deep", ""):
        stat = fs.stat(f"{task}/{name}")
        kept = (stat.st_mode, stat.st_ino, stat.st_size, stat.st_blocks, stat.st_mtime_ns)
        found[f"stat {name}"] = repr(kept).encode()
    for name in fs.xattrs(task):
        found[name] = fs.xattr(task, name)
    found["crc32"] = fs.xattr(f"{task}/outputs/text", "user.taskfs.crc32")
    return found


@contextlib.contextmanager
def counting_connections(cloud: FakeCloud) -> Iterator[Callable[[], int]]:
    """Listen in place of the API and count the connections."""
    port = cloud.api.port
    cloud.stop()
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.setblocking(False)

        def count() -> int:
            came = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
                    came += 1
            return came

        yield count


def test_offline_shows_what_was_seen_without_a_connection(
    mounted: MountFactory, cloud: FakeCloud, at_once: None
) -> None:
    """O-1, O-2, O-3, O-5, O-7: `--offline` shows the finished tasks, their trees and the bytes once
    read, without a connection and without a key."""
    tasks = [
        finished(cloud, task_metadata={"owner": "me"}),
        finished(cloud, status="failed", error_detail="it diverged", project="other"),
    ]
    running = cloud.add_task(status="computation-started")
    with mounted() as mount:
        fs = Mounted(cloud, mount.path)
        before = {task: seen(fs, task) for task, _ in tasks}
        assert json.loads(fs.read(".taskfs/stats.json"))["offline"] is False
        listed = [name for name in fs.names() if name != running]
        assert fs.target(".latest") == running
    with counting_connections(cloud) as connections:
        with mounted(offline="") as mount:
            fs = Mounted(cloud, mount.path)
            assert fs.names() == listed
            for task, files in tasks:
                after = seen(fs, task)
                assert after.keys() == before[task].keys()
                for name, body in before[task].items():
                    assert_same(after[name], body)
                for name, body in files.items():
                    assert_same(after[f"outputs/{name}"], body)
            assert fs.target(".latest") == fs.names()[0]
            assert fs.names(".by-status/success") == [tasks[0][0]]
            assert fs.names(".by-project/other") == [tasks[1][0]]
            assert json.loads(fs.read(".taskfs/stats.json"))["offline"] is True
            assert json.loads(fs.read(".taskfs/stats.json"))["api_requests"] == 0
        assert connections() == 0


def test_offline_anything_else_is_etimedout_at_once(
    mounted: MountFactory, cloud: FakeCloud, at_once: None
) -> None:
    """O-2, O-4: Anything else is ETIMEDOUT at once, and nothing is sent although the API would
    answer."""
    task, files = finished(cloud)
    unread, _ = finished(cloud)
    running = cloud.add_task(status="computation-started", outputs={"x": b"so far\n"})
    with mounted() as mount:
        fs = Mounted(cloud, mount.path)
        assert fs.read(f"{task}/outputs/small") == files["small"]
        assert fs.read(f"{running}/status") == b"computation-started\n"
    later = cloud.add_task(end_time=LONG_AGO)
    cloud.clear_requests()
    with mounted(offline="") as mount:
        fs = Mounted(cloud, mount.path)
        assert fs.read(f"{unread}/status") == b"success\n"
        assert fs.read(f"{task}/outputs/small") == files["small"]
        for path in (running, f"{running}/status", f"{running}/kill", later, f"{later}/status"):
            with refused(errno.ETIMEDOUT):
                fs.stat(path)
        with refused(errno.ENOENT):
            fs.stat(".git")
        with refused(errno.ETIMEDOUT):
            fs.names(f"{unread}/outputs")
        with refused(errno.ETIMEDOUT):
            fs.stat(f"{unread}/output_files_info")
        with refused(errno.ETIMEDOUT):
            fs.read(f"{task}/outputs/deep/noise")
        with refused(errno.ETIMEDOUT):
            fs.names(f"{task}/inputs")
        with refused(errno.ETIMEDOUT):
            fs.set_xattr(task, "user.taskfs.metadata.mood", b"good")
        with refused(errno.ESRCH):  # the status is final: no request is needed
            (mount.path / task / "kill").write_bytes(b"1\n")
        assert fs.read(f"{task}/outputs/small") == files["small"]
    assert cloud.requests == []


@pytest.mark.parametrize("method", [0, 8])
def test_offline_the_part_that_was_read(
    mounted: MountFactory, cloud: FakeCloud, at_once: None, method: int
) -> None:
    """O-3, O-4: Only the bytes of a large member that were read before are served; a reader that
    met the end of the cached bytes continues with the rest."""
    task, _ = finished(cloud)
    body = random.Random(1).randbytes(12 << 20)
    cloud.put_object(f"{task}/output.zip", build([Entry(b"artifacts/large", body, method)]))
    offset = 0 if method else 5 << 20
    with mounted() as mount, open(mount.path / task / "outputs/large", "rb") as file:
        assert os.pread(file.fileno(), 4096, offset) == body[offset : offset + 4096]
    with mounted(offline="") as mount, open(mount.path / task / "outputs/large", "rb") as file:
        for _ in range(2):
            assert os.pread(file.fileno(), 4096, offset) == body[offset : offset + 4096]
            with refused(errno.ETIMEDOUT):
                os.pread(file.fileno(), 4096, 11 << 20)
        with pytest.raises(OSError), open(mount.path / task / "outputs/large", "rb") as other:
            other.read()
        assert os.pread(file.fileno(), 4096, offset) == body[offset : offset + 4096]
    with mounted() as mount:
        assert_same((mount.path / task / "outputs/large").read_bytes(), body)


def test_offline_each_failure_is_logged_once(mounted: MountFactory, cloud: FakeCloud) -> None:
    """X-10: Offline, each failure is logged once with operation, path and cause."""
    task, _ = finished(cloud)
    with mounted() as mount:
        os.stat(mount.path / task / "outputs" / "text")
    with mounted(offline="") as mount:
        with refused(errno.ETIMEDOUT):
            (mount.path / task / "outputs" / "text").read_bytes()
        lines = [line for line in mount.log.read_text().splitlines() if f"{task}/outputs" in line]
    reads = [line for line in lines if " read /" in line]
    assert reads and reads == lines  # the kernel asks twice: ahead, and for the page that it needs
    assert len(reads) <= 2
    assert all("ETIMEDOUT" in line and "--offline" in line for line in reads)


def test_offline_forgets_nothing(mounted: MountFactory, cloud: FakeCloud, tmp_path: Path) -> None:
    """O-6: A refresh is refused, and neither it nor a damaged member costs the cached tree."""
    task, _ = finished(cloud)
    wrong = build(
        [Entry(b"artifacts/good", b"good\n"), Entry(b"artifacts/bad", b"worse\n" * 9, crc=1)]
    )
    cloud.put_object(f"{task}/output.zip", wrong)
    with mounted() as mount:
        assert (mount.path / task / "outputs/good").read_bytes() == b"good\n"
        with refused(errno.EIO):
            (mount.path / task / "outputs/bad").read_bytes()
        assert (mount.path / task / "outputs/good").read_bytes() == b"good\n"
    cache = {path: path.read_bytes() for path in tmp_path.glob("cache/v1/*/*") if path.is_file()}
    assert cache
    for _ in range(2):
        with mounted(offline="") as mount:
            with refused(errno.ETIMEDOUT):
                (mount.path / ".taskfs/refresh").write_bytes(b"1\n")
            for _ in range(2):
                with pytest.raises(OSError):
                    (mount.path / task / "outputs/bad").read_bytes()
                assert (mount.path / task / "outputs/good").read_bytes() == b"good\n"
    assert {path: path.read_bytes() for path in cache} == cache


def test_offline_needs_something_to_show(
    mounted: MountFactory, cloud: FakeCloud, tmp_path: Path
) -> None:
    """O-8, O-10: Where nothing is cached the mount fails and says so; another account's tasks are
    not shown."""
    finished(cloud)
    (tmp_path / "home").mkdir()
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    taskfs = Taskfs(tmp_path / "home", cloud)
    cache = ("--cache-dir", str(tmp_path / "cache"))

    def fails() -> str:
        done = taskfs("mount", "--offline", *cache, mountpoint)
        assert (done.returncode, done.stdout, is_mounted(mountpoint)) == (1, "", False)
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert fails() == (
        f"taskfs: {tmp_path / 'cache'} has no tasks of {cloud.api_url}: "
        "mount it once without --offline\n"
    )
    with mounted():
        pass
    taskfs.environment["INDUCTIVA_API_KEY"] = "another-key"
    assert "mount it once without --offline" in fails()
    with mounted(offline="") as mount:  # no key: the account that was used last
        assert len(os.listdir(mount.path)) == 1 + 5  # the views and .latest
    del taskfs.environment["INDUCTIVA_API_KEY"]
    ways: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
        (("-o", "offline,ro"), {}),
        ((), {"TASKFS_OFFLINE": "yes"}),
    )
    for words, variables in ways:
        done = taskfs("mount", *words, *cache, mountpoint, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(os.listdir(mountpoint)) == 1 + 5
        umount(mountpoint, lazy=False)
    shutil.rmtree(tmp_path / "cache/tasks")
    assert "mount it once without --offline" in fails()


def test_offline_names_the_fix_where_the_saved_tasks_are_lost(
    mounted: MountFactory, cloud: FakeCloud, tmp_path: Path
) -> None:
    """O-17, C-1: Where the file of tasks is damaged under an `--offline` mount, the listing fails,
    and the log names a command after which the next mount lists the tasks."""
    task, _ = finished(cloud)
    with mounted():
        pass
    (saved,) = (tmp_path / "cache/tasks").glob("*.db")
    with mounted(offline="") as mount:
        os.truncate(saved, 0)
        with refused(errno.ETIMEDOUT):
            os.listdir(mount.path)
        assert "save them again with `taskfs list --all`, without --offline" in (
            mount.log.read_text()
        )
    (tmp_path / "home").mkdir()
    done = Taskfs(tmp_path / "home", cloud)("list", "--all", "--cache-dir", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    with mounted(offline="") as mount:
        assert task in os.listdir(mount.path)


def test_offline_lists_what_the_account_still_has(mounted: MountFactory, cloud: FakeCloud) -> None:
    """O-3: A task that was removed from the account is no longer shown."""
    tasks = [finished(cloud)[0] for _ in range(3)]
    with mounted():
        pass
    cloud.remove_task(tasks[1])
    cloud.update_task(tasks[0], project="moved")
    with mounted(last="1"):  # what one listing leaves out may still be there
        pass
    with mounted(offline="") as mount:
        assert {name for name in os.listdir(mount.path) if name[0] != "."} == set(tasks)
    with mounted():
        pass
    with mounted(offline="") as mount:
        assert {name for name in os.listdir(mount.path) if name[0] != "."} == {tasks[0], tasks[2]}
        assert os.listdir(mount.path / ".by-project/moved") == [tasks[0]]
    with mounted(offline="", project="moved") as mount:
        assert [name for name in os.listdir(mount.path) if name[0] != "."] == [tasks[0]]


def test_a_task_that_ends_during_a_mount_is_kept(mounted: MountFactory, cloud: FakeCloud) -> None:
    """O-1: A task that ends during a mount is kept."""
    task = cloud.add_task(status="computation-started")
    with mounted(**QUICK) as mount:
        assert (mount.path / task / "status").read_text() == "computation-started\n"
        cloud.update_task(task, status="success", is_terminated=True, end_time=LONG_AGO)
        deadline = time.monotonic() + 30
        while (mount.path / task / "status").read_text() != "success\n":
            assert time.monotonic() < deadline
    with mounted(offline="") as mount:
        assert (mount.path / task / "status").read_text() == "success\n"


def test_a_mount_without_the_api_names_the_way_out(
    mounted: MountFactory, cloud: FakeCloud, tmp_path: Path
) -> None:
    """O-11: Where the API is away and the cache has something, the error names `--offline`."""
    (tmp_path / "home").mkdir()
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    taskfs = Taskfs(tmp_path / "home", cloud)
    finished(cloud)

    def fails(timeout: str) -> str:
        flags = ("--cache-dir", str(tmp_path / "cache"), "--timeout", timeout)
        done = taskfs("mount", *flags, mountpoint)
        assert (done.returncode, done.stdout, is_mounted(mountpoint)) == (1, "", False)
        assert done.stderr.count("\n") == 1
        return done.stderr

    cloud.pause()
    assert "--offline" not in fails("1s")
    cloud.resume()
    with mounted():
        pass
    cloud.pause()
    assert "the finished tasks that are cached (1) with --offline" in fails("1s")
    cloud.resume()
    cloud.fail("api")
    assert "503" in (message := fails("5s")) and "cached (1) with --offline" in message
    cloud.faults.clear()
    taskfs.environment["INDUCTIVA_API_KEY"] = "wrong"
    assert "--offline" not in fails("30s")  # a refused key is no failure of the API


def break_off(cloud: FakeCloud, how: str) -> None:
    if how == "refused":
        cloud.pause()
    elif how == "stalled":
        cloud.faults.add("stall", times=None)
    else:
        cloud.fail()


@pytest.mark.parametrize("how", ["refused", "stalled", "503"])
def test_known_finished_tasks_outlive_the_api(
    mounted: MountFactory, cloud: FakeCloud, how: str
) -> None:
    """O-12, O-13, O-14: Finished tasks that this mount has seen keep working while the API is away;
    at most one operation waits a whole `--timeout`."""
    known, files = finished(cloud)
    running = cloud.add_task(status="computation-started")
    timeout_s = 8.0
    with mounted(timeout=f"{timeout_s:g}s", **QUICK) as mount:
        fs = Mounted(cloud, mount.path)
        before = seen(fs, known)
        assert fs.read(f"{running}/status") == b"computation-started\n"
        break_off(cloud, how)
        began_s = time.monotonic()
        for _ in range(12):
            for name in ("status", "computation_time", "outputs/small"):
                assert fs.read(f"{known}/{name}") == before[name]
            time.sleep(0.1)
        assert time.monotonic() - began_s < 6 * timeout_s
        began_s = time.monotonic()
        for _ in range(12):
            assert_same(fs.read(f"{known}/info.json"), before["info.json"])
            assert_same(fs.read(f"{known}/machine_type"), before["machine_type"])
            time.sleep(0.1)
        for name, body in files.items():
            assert_same(fs.read(f"{known}/outputs/{name}"), body)
        assert time.monotonic() - began_s < 6 * timeout_s  # not 24 times
        with refused(errno.EIO if how == "503" else errno.ETIMEDOUT):
            fs.read(f"{running}/status")
        cloud.faults.clear()
        cloud.resume()
        assert fs.read(f"{running}/status") == b"computation-started\n"


@pytest.mark.parametrize("how", ["refused", "stalled", "503"])
def test_tasks_known_from_an_earlier_mount_outlive_the_api(
    mounted: MountFactory, cloud: FakeCloud, how: str
) -> None:
    """O-12, O-13: Tasks that only an earlier mount has seen keep working while the API fails."""
    earlier = [finished(cloud)[0] for _ in range(8)]
    newest, _ = finished(cloud)
    timeout_s = 8.0
    with mounted() as mount:
        before = {task: seen(Mounted(cloud, mount.path), task) for task in earlier}
    with mounted(timeout=f"{timeout_s:g}s", last="1", **QUICK) as mount:
        fs = Mounted(cloud, mount.path)
        assert newest in fs.names()
        assert earlier[0] not in fs.names()
        break_off(cloud, how)
        began_s = time.monotonic()
        for task in earlier:
            after = seen(fs, task)
            for name, body in before[task].items():
                assert_same(after[name], body)
        assert time.monotonic() - began_s < len(earlier) * timeout_s
        with refused(errno.EIO if how == "503" else errno.ETIMEDOUT):
            fs.stat("x" * 25)
        cloud.faults.clear()
        cloud.resume()
        cloud.remove_task(earlier[0])
        deadline = time.monotonic() + 60
        while True:  # until a listing has arrived
            with contextlib.suppress(OSError):
                fs.names()
            if earlier[0] not in (there := _still_there(fs, earlier)):
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert there == earlier[1:]


def _still_there(fs: Mounted, tasks: list[str]) -> list[str]:
    found = []
    for task in tasks:
        with contextlib.suppress(FileNotFoundError):
            fs.stat(task)
            found.append(task)
    return found


def test_offline_commands(mounted: MountFactory, cloud: FakeCloud, tmp_path: Path) -> None:
    """C-13, C-1: `list` and `info` show the cache with --offline; a command that must ask says so
    in one line."""
    task, _ = finished(cloud)
    cloud.add_task(status="computation-started")
    with mounted():
        pass
    (tmp_path / "home").mkdir()
    taskfs = Taskfs(tmp_path / "home", cloud)
    cache = ("--offline", "--cache-dir", str(tmp_path / "cache"))
    cloud.clear_requests()
    done = taskfs("list", *cache, "--json")
    assert [record["task_id"] for record in json.loads(done.stdout)] == [task]
    done = taskfs("info", *cache, task)
    assert (done.returncode, done.stderr) == (0, "")
    assert "success" in done.stdout
    done = taskfs("info", *cache, "x" * 25)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "not cached" in done.stderr and "network" not in done.stderr
    done = taskfs("list", "--offline", TASKFS_CACHE_DIR=str(tmp_path / "empty"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "mount it once without --offline" in done.stderr
    for command in (["kill", "-y", task], ["wait", task], ["download", task]):
        done = taskfs(*command, TASKFS_OFFLINE="1")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
        assert "TASKFS_OFFLINE" in done.stderr
    assert cloud.requests == []

"""Changes in the cloud as inotifywait sees them, on both engines."""

import errno
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import ON_ENGINES
from tests.fake_api import FakeCloud
from tests.mounts import Mount, eventually, is_mounted
from tests.outputs import put_outputs

pytestmark = pytest.mark.mount

SENT: Final = "modify,attrib,close_write,create,delete"
# Seconds within which a change is seen, on a loaded machine.
SOON_S: Final = 30.0
# Seconds within which a new watch is seen.
WATCH_S: Final = 2.0
NewMount = Callable[..., Mount]


def wait_until_established(inotifywait: "subprocess.Popen[str]") -> None:
    assert inotifywait.stderr is not None
    while "established" not in (line := inotifywait.stderr.readline()):
        assert line, "inotifywait has ended"


class Watcher:
    """inotifywait on some paths; `seen` has what it printed, such as `ID/status MODIFY`."""

    def __init__(self, root: Path, *paths: str) -> None:
        self.seen: list[str] = []
        self.paths = {(root, path) for path in paths}
        self._root = f"{root}/"
        self.process = subprocess.Popen(
            ["inotifywait", "-m", "-e", SENT, "--format", "%w%f %e", *(root / p for p in paths)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until_established(self.process)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.seen.append(line.rstrip("\n").removeprefix(self._root))

    def wait_for(self, event: str, timeout_s: float) -> None:
        """Wait until *event* was printed."""
        try:
            eventually(lambda: event in self.seen, timeout_s)
        except AssertionError:
            raise AssertionError(f"no {event!r} in {self.seen}") from None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


_watchers: Final[list[Watcher]] = []


@contextmanager
def watching(root: Path, *paths: str, is_followed: bool = True) -> Iterator[Watcher]:
    """Watch *paths* of the mount on *root*, and wait until its daemon has seen all watches.

    With *is_followed* false the daemon does not look for watches.
    """
    watcher = Watcher(root, *paths)
    _watchers.append(watcher)
    try:
        if is_followed:
            eventually(partial(sees_watches, root, count_watches(root)))
        else:
            time.sleep(WATCH_S)
        yield watcher
    finally:
        _watchers.remove(watcher)
        watcher.stop()


def count_watches(root: Path) -> int:
    """Return how many paths of the mount on *root* are watched."""
    return len({path for each in _watchers for path in each.paths if path[0] == root})


def sees_watches(root: Path, count: int) -> bool:
    """Whether the daemon of the mount on *root* has seen *count* watched paths."""
    log = (root.parent / "taskfs.log").read_text()
    found = re.findall(r"programs watch (\d+)|no program watches", log)
    return bool(found) and (found[-1] or "0") == str(count)


@pytest.fixture
def new_mount(new_mount: NewMount) -> NewMount:
    """Mounts whose logs say which watches the daemons have seen."""
    return partial(new_mount, verbose="")


@pytest.fixture(params=ON_ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return "fusepy" if request.param == "fusepy" else "kernel"


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended
            found += map(int, (thread / "children").read_text().split())
    return found


def test_a_status_changes(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """V-1, V-2: Watchers of `status` and of its directory get IN_MODIFY, and read the new state."""
    task = cloud.add_task(status="started")
    root = new_mount(engine=engine).path
    for status in ("computation-started", "success"):
        assert (root / task / "status").stat().st_size
        with watching(root, f"{task}/status") as of_file, watching(root, task) as of_directory:
            (root / task / "status").read_text()
            cloud.set_status(task, status)
            of_file.wait_for(f"{task}/status MODIFY", SOON_S)
            assert (root / task / "status").read_text() == f"{status}\n"
            assert (root / task / "status").stat().st_size == len(status) + 1
            of_directory.wait_for(f"{task}/status MODIFY", SOON_S)
            of_directory.wait_for(f"{task}/info.json MODIFY", SOON_S)
            time.sleep(WATCH_S)
            changed = [f"{task}/status MODIFY", f"{task}/status CLOSE_WRITE,CLOSE"]
            assert of_file.seen == changed


def test_a_long_attr_timeout(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """V-2, V-9: A watch is seen, and a status sends its events, while the kernel still has names
    for an hour."""
    first, second = (cloud.add_task(status="started") for _ in range(2))
    root = new_mount(engine=engine, attr_timeout="1h").path
    link = f".by-status/started/{first}"
    # Its removal must wait for an hour; opened, because the kernel drops names to get memory.
    opened = os.open(root / link, os.O_PATH | os.O_NOFOLLOW)
    try:
        with watching(root, ".by-status/started", first, second) as watcher:
            cloud.set_status(first, "success")
            watcher.wait_for(f"{first}/status MODIFY", SOON_S)
            cloud.set_status(second, "success")
            watcher.wait_for(f"{second}/status MODIFY", SOON_S)
            watcher.wait_for(f".by-status/started/{second} DELETE", SOON_S)
            assert f"{link} DELETE" not in watcher.seen
    finally:
        os.close(opened)


def test_tasks_come_and_go(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """V-1: The root and the views get IN_CREATE and IN_DELETE."""
    old = cloud.add_task(status="started", project="first")
    root = new_mount(engine=engine, dir_cache_time="2s").path
    os.listdir(root / old)
    groups = (".by-status/started", ".by-status/success", ".by-project", ".by-date")
    with watching(root, "", *groups) as watcher:
        task = cloud.add_task(status="started", project="second")
        watcher.wait_for(f"{task} CREATE,ISDIR", SOON_S)
        watcher.wait_for(f".by-status/started/{task} CREATE", SOON_S)
        watcher.wait_for(".by-project/second CREATE,ISDIR", SOON_S)
        watcher.wait_for(".latest ATTRIB", SOON_S)
        (by_date,) = (name for name in os.listdir(root / ".by-date") if name.endswith(task[:8]))
        watcher.wait_for(f".by-date/{by_date} CREATE", SOON_S)
        assert (root / task / "status").read_text() == "started\n"
        assert os.readlink(root / ".by-status/started" / task) == f"../../{task}"
        cloud.set_status(task, "success")
        watcher.wait_for(f".by-status/success/{task} CREATE", SOON_S)
        watcher.wait_for(f".by-status/started/{task} DELETE", SOON_S)
        watcher.wait_for(f"{task} ATTRIB,ISDIR", SOON_S)
        watcher.wait_for(f".by-date/{by_date} DELETE", SOON_S)
        watcher.wait_for(f".by-date/{by_date.replace('started', 'success')} CREATE", SOON_S)
        for gone in (task, old):
            os.listdir(root / gone)
            cloud.remove_task(gone)
            watcher.wait_for(f"{gone} DELETE,ISDIR", SOON_S)
            assert not (root / gone).exists()
        watcher.wait_for(".by-project/second DELETE,ISDIR", SOON_S)
        made = [line for line in watcher.seen if "CREATE" in line or "DELETE" in line]
        assert sorted(made) == sorted(set(made))


def test_an_archive_arrives(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """V-4: The archive's arrival is seen in the task's directory and in `outputs/`."""
    task = cloud.add_task(status="computation-started")
    root = new_mount(engine=engine).path
    assert os.listdir(root / task / "outputs") == []
    with watching(root, task, f"{task}/outputs") as watcher:
        cloud.set_status(task, "success")
        watcher.wait_for(f"{task}/status MODIFY", SOON_S)
        put_outputs(cloud, task, {"forces.csv": b"1", "vtk/a.vtk": b"2"})
        watcher.wait_for(f"{task}/output_files_info MODIFY", SOON_S)
        watcher.wait_for(f"{task}/outputs ATTRIB,ISDIR", SOON_S)
        watcher.wait_for(f"{task}/outputs/forces.csv CREATE", SOON_S)
        watcher.wait_for(f"{task}/outputs/vtk CREATE,ISDIR", SOON_S)
        assert (root / task / "outputs/forces.csv").read_bytes() == b"1"
        assert sorted(os.listdir(root / task / "outputs")) == ["forces.csv", "vtk"]
        assert "forces.csv" in (root / task / "output_files_info").read_text()


def test_names_of_a_large_archive(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """V-4, V-6: The first 256 names in `outputs/` send one event each."""
    task = cloud.add_task(status="computation-started")
    root = new_mount(engine=engine).path
    with watching(root, task, f"{task}/outputs") as watcher:
        cloud.set_status(task, "success")
        put_outputs(cloud, task, {f"frame_{number:03}.vtk": b"1" for number in range(300)})
        watcher.wait_for(f"{task}/outputs ATTRIB,ISDIR", SOON_S)
        created = [line.split()[0] for line in watcher.seen if line.endswith(" CREATE")]
        assert len(created) == len(set(created)) == 256
        assert {os.path.dirname(path) for path in created} == {f"{task}/outputs"}
        assert len(os.listdir(root / task / "outputs")) == 300


def test_computation_time_ticks(new_mount: NewMount, cloud: FakeCloud) -> None:
    """V-3: `computation_time` of a running task gets one event in 10 s."""
    task = cloud.add_task(status="computation-started")
    root = new_mount().path
    began_s = time.monotonic()
    with watching(root, task) as watcher:
        eventually(lambda: watcher.seen.count(f"{task}/computation_time MODIFY") >= 2)
        assert time.monotonic() - began_s >= 20.0
        assert {line.split()[0] for line in watcher.seen} == {f"{task}/computation_time"}


def wait_for_the_last_request(cloud: FakeCloud) -> None:
    """Wait until no request has come for 2 s: the background requests of a mount are over."""
    count, since_s = -1, 0.0

    def is_quiet() -> bool:
        nonlocal count, since_s
        if count != len(cloud.requests):
            count, since_s = len(cloud.requests), time.monotonic()
        return time.monotonic() - since_s >= 2.0

    eventually(is_quiet)
    cloud.clear_requests()


def test_no_request_without_a_watch(new_mount: NewMount, cloud: FakeCloud) -> None:
    """V-5: Without a watch, or with one for other events, or with `off`, nothing is asked for."""
    task = cloud.add_task(status="started")
    quick = {"status_cache_time": "200ms", "dir_cache_time": "1500ms"}
    root = new_mount(**quick).path
    other = new_mount(**quick, events="off").path
    watcher = subprocess.Popen(
        ["inotifywait", "-m", "-e", "access", root / task],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until_established(watcher)
        with watching(other, task, is_followed=False):
            for folder in (root, other):
                os.listdir(folder)
                (folder / task / "status").read_text()
            wait_for_the_last_request(cloud)
            time.sleep(8)
            assert cloud.requests == []
    finally:
        watcher.kill()
        watcher.communicate()
    with watching(root, task):
        eventually(lambda: len(cloud.requests) > 5)
    eventually(partial(sees_watches, root, 0), SOON_S)
    wait_for_the_last_request(cloud)
    time.sleep(3)
    assert cloud.requests == []


def test_all_files_count_as_watched(new_mount: NewMount, cloud: FakeCloud) -> None:
    """V-5: With `--events on` changes are asked for though no watch is seen."""
    cloud.add_task(status="started")
    new_mount(events="on", status_cache_time="200ms")
    cloud.clear_requests()
    eventually(lambda: len(cloud.requests) > 5)


def test_no_event_without_a_change(new_mount: NewMount, cloud: FakeCloud) -> None:
    """V-6: A first listing, and updates that bring nothing new, send no event."""
    tasks = [cloud.add_task(status="started") for _ in range(300)]
    root = new_mount(status_cache_time="200ms", dir_cache_time="1200ms").path
    with watching(root, "", ".by-status/started", *tasks[:5]) as watcher:
        os.listdir(root)
        time.sleep(4)
        assert watcher.seen == []


@pytest.mark.parametrize("count", [1000, 1002])
def test_a_first_listing_sends_none(new_mount: NewMount, cloud: FakeCloud, count: int) -> None:
    """V-6: The tasks of a first listing send no event, although a program watches the root before
    it is read; a task that comes later does."""
    for _ in range(count):
        cloud.add_task(status="success")
    root = new_mount(dir_cache_time="2s").path
    with watching(root, "") as watcher:
        eventually(lambda: len(cloud.requests) >= 4, SOON_S)  # the pages of it, and an update
        time.sleep(WATCH_S)
        assert watcher.seen == []
        task = cloud.add_task(status="started")
        watcher.wait_for(f"{task} CREATE,ISDIR", SOON_S)
        watcher.wait_for(".latest ATTRIB", SOON_S)
        assert {line.split()[0] for line in watcher.seen} == {task, ".latest"}


def test_others_are_refused(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """V-7: While events are sent, other processes still get EROFS."""
    root = new_mount(engine=engine, status_cache_time="200ms", dir_cache_time="1200ms").path
    task = cloud.add_task(status="started")
    calls: list[Callable[[], object]] = [
        lambda: os.mkdir(root / "new"),
        lambda: os.rmdir(root / task),
        lambda: os.utime(root / task / "status"),
        lambda: os.unlink(root / ".by-status/started" / task),
        lambda: os.symlink("x", root / "link"),
    ]
    seen: list[int | None] = []
    with watching(root, "", ".by-status/started") as watcher:
        until_s = time.monotonic() + 120.0
        while len(seen) < 200 or not any("CREATE" in line for line in watcher.seen):
            assert time.monotonic() < until_s, watcher.seen
            time.sleep(0.1)
            cloud.set_status(task, "submitted" if len(seen) % 20 < 10 else "started")
            for call in calls:
                with pytest.raises(OSError) as raised:
                    call()
                seen.append(raised.value.errno)
    assert set(seen) <= {errno.EROFS, errno.ENOENT} and errno.EROFS in seen


def test_a_working_directory_survives(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """V-1: The event of a new task leaves a program alone that works in its directory."""
    cloud.add_task()
    root = new_mount(engine=engine, dir_cache_time="4s").path
    with watching(root, "") as watcher:
        task = cloud.add_task(status="started")
        program = "pwd -P >/dev/null && sleep 7 && cat status && /bin/pwd && ls"
        shell = subprocess.Popen(
            ["sh", "-c", program], cwd=root / task, stdout=subprocess.PIPE, text=True
        )
        watcher.wait_for(f"{task} CREATE,ISDIR", SOON_S)
        printed, _ = shell.communicate(timeout=60)
    assert printed.splitlines()[:2] == ["started", str(root / task)]
    assert "outputs" in printed


def test_a_read_only_mount(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """V-8: With `--read-only`, events need `--events on`, and every change is refused all the
    same."""
    task = cloud.add_task(status="started")
    plain = new_mount(engine=engine, read_only="").path
    root = new_mount(engine=engine, read_only="", events="on").path
    assert os.statvfs(plain).f_flag & os.ST_RDONLY
    with (
        watching(plain, task, is_followed=False) as silent,
        watching(root, task, is_followed=False) as watcher,
    ):
        cloud.set_status(task, "computation-started")
        watcher.wait_for(f"{task}/status MODIFY", SOON_S)
        assert silent.seen == []
    for folder in (plain, root):
        calls: list[Callable[[], object]] = [
            partial((folder / task / "kill").write_text, "1"),
            partial(os.setxattr, folder / task, "user.taskfs.metadata.a", b"1"),
            partial(os.mkdir, folder / "new"),
            partial(os.chmod, folder / task / "kill", 0o600),
        ]
        for call in calls:
            with pytest.raises(OSError) as raised:
                call()
            assert raised.value.errno == errno.EROFS
    assert cloud.killed == []


def test_a_silent_store(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """V-9: Events are sent while many requests wait for a store that does not answer."""
    silent = [cloud.add_task(outputs={"a": b"x"}) for _ in range(24)]
    task = cloud.add_task(status="started")
    root = new_mount(engine=engine, timeout="2m", dir_cache_time="2s").path
    with ThreadPoolExecutor(30) as pool, watching(root, "", task) as watcher:
        cloud.faults.add("stall", side="store", times=None)
        try:
            reads = [pool.submit(os.listdir, root / each / "outputs") for each in silent]
            eventually(lambda: any(r.side == "store" for r in cloud.requests))
            cloud.set_status(task, "computation-started")
            new = cloud.add_task(status="started")
            watcher.wait_for(f"{task}/status MODIFY", SOON_S)
            watcher.wait_for(f"{new} CREATE,ISDIR", SOON_S)
            assert not any(read.done() for read in reads[:8])
        finally:
            cloud.faults.clear()


def test_an_archive_in_a_silent_store(new_mount: NewMount, cloud: FakeCloud) -> None:
    """V-9: An archive that is looked for in a silent store delays no event of another task."""
    ended, task = (cloud.add_task(status="started") for _ in range(2))
    root = new_mount(timeout="2m").path
    with watching(root, ended, task) as watcher:
        cloud.faults.add("stall", side="store", times=None)
        put_outputs(cloud, ended, {"a": b"x"})
        cloud.set_status(ended, "success")
        watcher.wait_for(f"{ended}/status MODIFY", SOON_S)
        eventually(lambda: any(r.side == "store" for r in cloud.requests))
        cloud.set_status(task, "computation-started")
        watcher.wait_for(f"{task}/status MODIFY", SOON_S)
        cloud.faults.clear()
        watcher.wait_for(f"{ended}/outputs ATTRIB,ISDIR", SOON_S)


def test_unmount_and_killed_daemon(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """V-9: An unmount or a killed daemon ends the helper, whatever it does at that time."""
    task = cloud.add_task(status="started")
    for ends in ("umount", "kill -9", "silent"):
        mount = new_mount(engine=engine, status_cache_time="200ms", dir_cache_time="1200ms")
        watcher = Watcher(mount.path, "", task)
        try:
            eventually(partial(sees_watches, mount.path, 2))
            cloud.set_status(task, "submitted")
            watcher.wait_for(f"{task}/status MODIFY", SOON_S)
            pid = mount.pid
            (helper,) = children_of(pid)
            cloud.set_status(task, "started")
            if ends == "silent":
                cloud.faults.add("stall", times=None)
            if ends == "umount":
                watcher.stop()
                eventually(partial(try_stop, mount), SOON_S)
            else:
                os.kill(pid, 9)
            for process in (pid, helper):
                eventually(partial(has_ended, process), SOON_S)
        finally:
            watcher.stop()
            cloud.faults.clear()
            if is_mounted(mount.path):
                subprocess.run(["umount", "-l", mount.path], check=True)


def has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def try_stop(mount: Mount) -> bool:
    """Unmount; False while the mount is busy for the moment of a call."""
    return subprocess.run(["umount", mount.path], capture_output=True).returncode == 0


def test_live_files_grow(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """V-10: A watched file on a task's machine, or one in a watched directory, gets IN_MODIFY when
    it grows, and a program that wakes up reads the new bytes."""
    task, other = (cloud.add_task(status="computation-started") for _ in range(2))
    for each in (task, other):
        cloud.machine_files(each).write("stdout.txt", b"one\n")
        cloud.machine_files(each).write("log/solver.log", b"step 1\n")
    root = new_mount(engine=engine).path
    log, stdout = f"{task}/live/log/solver.log", f"{task}/live/stdout.txt"
    assert (root / stdout).read_text() == "one\n"
    with watching(root, stdout) as of_file, watching(root, f"{task}/live/log") as of_directory:
        assert of_file.seen == of_directory.seen == []
        cloud.machine_files(task).append("stdout.txt", b"two\n")
        of_file.wait_for(f"{stdout} MODIFY", SOON_S)
        of_file.wait_for(f"{stdout} CLOSE_WRITE,CLOSE", SOON_S)
        assert (root / stdout).read_text() == "one\ntwo\n"
        cloud.machine_files(task).append("log/solver.log", b"step 2\n")  # no program has read it
        of_directory.wait_for(f"{log} MODIFY", SOON_S)
        assert (root / log).read_text() == "step 1\nstep 2"  # the newline is not known yet (L-4)
        cloud.machine_files(task).append("log/solver.log", b"step 3\n")
        eventually(lambda: of_directory.seen.count(f"{log} MODIFY") == 2, SOON_S)
        assert (root / log).read_text() == "step 1\nstep 2\nstep 3"
        time.sleep(WATCH_S)
        assert of_file.seen.count(f"{stdout} MODIFY") == 1  # no event without a change
        assert of_directory.seen.count(f"{log} MODIFY") == 2
    assert cloud.machine(other).open_connections == 0


def test_no_connection_without_a_watch(cloud: FakeCloud, tmp_path: Path) -> None:
    """V-10: Without a watch in its `live/`, a machine is not asked, though others are watched."""
    mount = Mount(cloud, tmp_path / "mnt", tmp_path, {"verbose": ""})
    mount.taskfs.environment["TASKFS_LIVE_IDLE_TIME"] = "1s"
    task = cloud.add_task(status="computation-started")
    cloud.machine_files(task).write("stdout.txt", b"one\n")
    root = mount.start().path
    try:
        with watching(root, task, f"{task}/status"):
            assert (root / task / "live/stdout.txt").read_text() == "one\n"
            eventually(lambda: cloud.machine(task).open_connections == 0)
            cloud.machine_files(task).append("stdout.txt", b"two\n")
            time.sleep(WATCH_S)
            assert cloud.machine(task).open_connections == 0
    finally:
        mount.stop()


def test_a_silent_machine(new_mount: NewMount, cloud: FakeCloud, engine: str) -> None:
    """V-10, V-9: A machine that answers nothing delays the events of no other task or file."""
    task, other = (cloud.add_task(status="computation-started") for _ in range(2))
    cloud.machine_files(task).write("stdout.txt", b"one\n")
    root = new_mount(engine=engine).path
    stdout = f"{task}/live/stdout.txt"
    assert (root / stdout).read_text() == "one\n"
    with watching(root, stdout, other) as watcher:
        cloud.machine(task).faults.add("silence", times=None)
        cloud.machine_files(task).append("stdout.txt", b"two\n")
        time.sleep(WATCH_S)
        cloud.set_status(other, "computation-ended")
        watcher.wait_for(f"{other}/status MODIFY", SOON_S)
        assert f"{stdout} MODIFY" not in watcher.seen

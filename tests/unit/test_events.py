"""Which watches count, and which events a change of a task has."""

import errno
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest

from taskfs.fuse import event_sender, events, watchers
from taskfs.fuse.archive_arrivals import ARCHIVE_POLL_S, ARCHIVE_TIMEOUT_S, ArchiveArrivals
from taskfs.fuse.attributes import AttributePolicy
from taskfs.fuse.event_operations import EventOperations
from taskfs.fuse.event_sender import EventSender
from taskfs.fuse.events import EventThread
from taskfs.fuse.helper_process import Helper
from taskfs.fuse.watchers import EVERYTHING, Watches, WatchScanner
from taskfs.model import Task
from taskfs.tasks.changes import TaskChange
from taskfs.tree.nodes import inode
from taskfs.tree.tree_events import EventKind, TreeEvent, TreeEvents
from taskfs.tree.view_nodes import Views
from tests.fake_api import FakeCloud
from tests.file_systems import InProcess
from tests.mounts import eventually
from tests.threads import no_new_threads
from tests.unit.fakes import Clock

# What fdinfo shows of a watch on inode 0x1f of device 0:52, for IN_MODIFY and IN_ATTRIB.
WATCH: Final = "inotify wd:2 ino:1f sdev:34 mask:6 ignored_mask:0 fhandle-bytes:8 fhandle-type:1\n"

ATTR_TIMEOUT_S: Final = 4.0  # of the senders


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process 7 with the descriptors of inotify 3 and of a file 4."""
    monkeypatch.setattr(watchers, "PROC", str(tmp_path))
    for name in ("fd", "fdinfo"):
        (tmp_path / "7" / name).mkdir(parents=True)
    (tmp_path / "7/fd/3").symlink_to("anon_inode:inotify")
    (tmp_path / "7/fd/4").symlink_to("/etc/passwd")
    (tmp_path / "7/comm").write_text("inotifywait\n")
    (tmp_path / "version").write_text("")
    (tmp_path / "8").mkdir()  # its descriptors cannot be listed
    return tmp_path / "7/fdinfo/3"


def scan() -> Watches:
    return WatchScanner("0:52", lambda: 99).scan()


def test_a_watch_counts_on_this_device(proc: Path) -> None:
    """V-5: A watch counts by inode, on this mount only, for events that are sent."""
    proc.write_text(f"pos:\t0\nflags:\t00\n{WATCH}")
    assert scan() and scan().include(1, 0x1F)
    assert not scan().include(0x20)
    for other in (WATCH.replace("sdev:34", "sdev:35"), WATCH.replace("mask:6", "mask:1"), ""):
        proc.write_text(other)
        assert not scan()


def test_background_programs_do_not_count(proc: Path) -> None:
    """V-5: The trash of GNOME watches the root of every mount, and causes no requests."""
    proc.write_text(WATCH)
    proc.parents[1].joinpath("comm").write_text("gvfsd-trash\n")
    assert not scan()


@pytest.mark.parametrize(
    "text",
    [
        "fanotify sdev:34 mflags:0 mask:2 ignored_mask:0\n",
        "fanotify mnt_id:63 mflags:0 mask:2 ignored_mask:0\n",
    ],
)
def test_a_watch_of_the_whole_mount(proc: Path, text: str) -> None:
    """V-5: fanotify may watch a whole file system or mount."""
    proc.write_text(text)
    assert scan() is EVERYTHING and scan().include(123)
    proc.write_text(text.replace("34", "35").replace("63", "64"))
    assert not scan()
    proc.write_text(text.replace("mask:2", "mask:20"))  # for opens, as virus scanners have it
    assert not scan()


class Groups(Views):
    """Views with given groups."""

    def __init__(self, *paths: str) -> None:
        self.paths = list(paths)

    def groups(self, view: str, *, cached: bool = False) -> dict[str, None]:  # type: ignore[override]
        assert cached, "events must not send requests"
        return {path.split("/")[1]: None for path in self.paths if path.startswith(f"{view}/")}


RUNNING: Final = Task("t", "started", False, "sim", "p", create_ns=10**9, start_ns=2 * 10**9)


def seen(events: TreeEvents, *changes: TaskChange) -> list[str]:
    return [f"{event.kind.value} {event.path}" for event in events.of_changes(changes)]


def test_the_events_of_a_new_status() -> None:
    """V-1, V-6: A status changes its text, the record, and the links that name it."""
    views = Groups(".by-status/started", ".by-project/p")
    events = TreeEvents(views, lambda task: task.status == "started")
    events.start()
    assert seen(events, TaskChange(RUNNING, RUNNING)) == []
    assert seen(events) == []
    ended = RUNNING._replace(status="success", is_terminated=True, end_ns=3 * 10**9)
    names = seen(events, TaskChange(RUNNING, ended))
    assert names[0] == "modify t/status"
    assert {"attrib t", "rmdir t/live"} < set(names)
    assert {"unlink .by-status/started/t", "symlink .by-status/success/t"} < set(names)
    assert len([name for name in names if ".by-date/" in name]) == 2
    assert not [name for name in names if ".by-project" in name or "mkdir" in name]


def test_groups_come_first_and_go_last() -> None:
    """V-1: The directory of a group exists for the events of its links."""
    views = Groups(".by-project/p")
    events = TreeEvents(views, lambda task: False)
    events.start()
    views.paths = [".by-project/q"]
    new = RUNNING._replace(id="u", project="q")
    names = seen(events, TaskChange(RUNNING, None), TaskChange(None, new))
    assert names[0] == "mkdir .by-project/q" and names[-1] == "rmdir .by-project/p"
    assert names.index("rmdir t") < names.index("mkdir u")
    assert "unlink .by-project/p/t" in names and "symlink .by-project/q/u" in names


def test_receivers_of_an_event() -> None:
    """V-1: Watchers of the directory get each event, those of the file only its own changes."""
    modified = TreeEvent(EventKind.MODIFY, "t/status")
    assert list(modified.watched_inodes) == [inode("t"), inode("t/status")]
    assert list(TreeEvent(EventKind.MAKE_DIRECTORY, "t").watched_inodes) == [inode("")]


class SlowScanner:
    """Waits for a core, as on a busy machine, and always finds one watch."""

    def __init__(self) -> None:
        self.scans = 0

    def scan(self) -> Watches:
        time.sleep(0.2)
        self.scans += 1
        return Watches(frozenset({1}))


class NoSender:
    """Sends nothing."""

    def send(self, events: Sequence[TreeEvent]) -> None:
        pass

    def clear(self) -> None:
        pass

    def close(self) -> None:
        pass


class KnownNames:
    """Answers as a helper does on a mount where the kernel still has the names in `known`."""

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.calls: list[str] = []
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = subprocess.Popen(["sleep", "inf"])
        self.helper = Helper(process, ours)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with self._theirs:
            self._answer_calls()

    def _answer_calls(self) -> None:
        while message := self._theirs.recv(1 << 16):
            _, name, _, path, _ = message.decode().split("\0")
            if path not in self.known:
                self.calls.append(f"{name} {path}")
            self._theirs.send(str(errno.EBUSY if path in self.known else 0).encode())


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[KnownNames]:
    """The helper of the senders in the test."""
    names = KnownNames()
    monkeypatch.setattr(event_sender, "start_helper", lambda program: names.helper)
    yield names
    names.helper.end()
    names.thread.join()


@pytest.fixture
def sender(tree: InProcess, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> EventSender:
    """A sender whose clock only the test moves."""
    monkeypatch.setattr(event_sender, "time", SimpleNamespace(monotonic=clock))
    operations = EventOperations(tree.core.tree, AttributePolicy(0, 0, 0), lambda: 0)
    return EventSender(operations, "/mnt", "0:52", ATTR_TIMEOUT_S, threading.Event())


LINK: Final = ".by-status/started/t"
REMOVED, MADE = (
    TreeEvent(kind, LINK, target="../../t") for kind in (EventKind.REMOVE_LINK, EventKind.MAKE_LINK)
)


def test_an_event_of_a_known_name(sender: EventSender, clock: Clock, names: KnownNames) -> None:
    """V-9: An event of a name that the kernel still has delays only those of the same name."""
    names.known.add(LINK)
    sender.send([REMOVED, TreeEvent(EventKind.MODIFY, "t/status")])
    sender.send([TreeEvent(EventKind.ATTRIB, LINK), TreeEvent(EventKind.MODIFY, "u/status")])
    assert names.calls == ["modify t/status", "modify u/status"]
    names.known.clear()
    sender.send([])
    assert len(names.calls) == 2
    clock.tick(ATTR_TIMEOUT_S)
    sender.send([])
    assert names.calls[2:] == [f"unlink {LINK}", f"attrib {LINK}"]


def test_an_event_of_a_name_that_stays_known(
    sender: EventSender, clock: Clock, names: KnownNames
) -> None:
    """V-9: An event is dropped if the kernel has the name for longer than the attr timeout."""
    names.known.add(LINK)
    sender.send([REMOVED])
    for _ in range(3):
        clock.tick(ATTR_TIMEOUT_S)
        sender.send([])
    names.known.clear()
    clock.tick(ATTR_TIMEOUT_S)
    sender.send([])
    assert names.calls == []


@pytest.mark.parametrize("first", ["unlink", "symlink"])
def test_a_change_that_is_undone_before_its_event(
    sender: EventSender, clock: Clock, names: KnownNames, first: str
) -> None:
    """V-6: A name that goes and comes back, or comes and goes, before its event has no event."""
    events = [REMOVED, MADE] if first == "unlink" else [MADE, REMOVED]
    names.known.add(LINK)
    for event in events:
        sender.send([event])
    names.known.clear()
    clock.tick(ATTR_TIMEOUT_S)
    sender.send(events[:1])
    assert names.calls == [f"{first} {LINK}"]


def test_no_earlier_event_after_a_new_begin(
    sender: EventSender, clock: Clock, names: KnownNames
) -> None:
    """V-6: Events from before a time without a watch are not sent."""
    names.known.add(LINK)
    sender.send([REMOVED])
    sender.clear()
    names.known.clear()
    clock.tick(ATTR_TIMEOUT_S)
    sender.send([])
    assert names.calls == []


def test_an_event_in_a_locked_directory(
    tree: InProcess, cloud: FakeCloud, names: KnownNames
) -> None:
    """V-9: A listing that waits for a silent store delays only the events in its directory."""
    task = cloud.add_task(outputs={"a": b"x"})
    operations = EventOperations(tree.core.tree, AttributePolicy(0, 0, 0), lambda: 0)
    sender = EventSender(operations, "/mnt", "0:52", ATTR_TIMEOUT_S, threading.Event())
    cloud.faults.add("stall", side="store", times=None)
    listing = threading.Thread(target=operations, args=("readdir", f"/{task}/outputs"))
    listing.start()
    try:
        eventually(lambda: any(request.side == "store" for request in cloud.requests))
        path = f"{task}/outputs/a"
        sender.send([TreeEvent(EventKind.MAKE_FILE, path), TreeEvent(EventKind.MODIFY, "t/status")])
        assert names.calls == ["modify t/status"]
    finally:
        cloud.faults.clear()
        listing.join()
    sender.send([])
    assert names.calls[1:] == [f"mknod {path}"]


def test_a_helper_ends_without_threads(names: KnownNames, monkeypatch: pytest.MonkeyPatch) -> None:
    """R-55: A helper is ended where the system starts no thread."""
    with no_new_threads(monkeypatch):
        names.helper.end()
    names.helper.process.wait()


@pytest.fixture
def ended(tree: InProcess, cloud: FakeCloud) -> str:
    """A task that has just ended, and whose archive has arrived."""
    task = cloud.add_task(outputs={"a": b"x"})
    assert task in tree.names()
    return task


def test_an_archive_without_threads(
    tree: InProcess, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-55, V-4: An archive is looked for again once the system has a thread."""
    arrivals = ArchiveArrivals(tree.core.tree)
    arrivals.begin(ended, 0.0)
    with no_new_threads(monkeypatch):
        assert list(arrivals.take(EVERYTHING, 0.0)) == []
    eventually(lambda: bool(list(arrivals.take(EVERYTHING, ARCHIVE_POLL_S))))


def test_an_archive_that_is_found_late(tree: InProcess, cloud: FakeCloud, ended: str) -> None:
    """V-4: A look that began in time finds the archive, however long the store is silent."""
    arrivals = ArchiveArrivals(tree.core.tree)
    arrivals.begin(ended, 0.0)
    cloud.faults.add("stall", side="store", times=None)
    assert list(arrivals.take(EVERYTHING, 0.0)) == []
    late_s = ARCHIVE_TIMEOUT_S + 1.0
    assert list(arrivals.take(EVERYTHING, late_s)) == []
    cloud.faults.clear()
    eventually(lambda: bool(list(arrivals.take(EVERYTHING, late_s))))


def test_scans_on_a_busy_machine(tree: InProcess) -> None:
    """V-2: A new watch is seen in time on a machine where a scan waits for a core."""
    operations = EventOperations(tree.core.tree, AttributePolicy(0, 0, 0), lambda: 0)
    scanner, stopped = SlowScanner(), threading.Event()
    events = EventThread(tree.core.tree, operations, scanner, NoSender(), stopped, settle_s=0.0)
    threading.Thread(target=events.run, daemon=True).start()
    try:
        eventually(lambda: scanner.scans > 0)
        scans = scanner.scans
        eventually(lambda: scanner.scans > scans)
    finally:
        stopped.set()


class TimedEvent(threading.Event):
    """An event whose waits take no time but that of a clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None or self.is_set(), "it would wait for ever"
        if not self.is_set():
            self._clock.tick(max(0.0, timeout or 0.0))
        return self.is_set()


class IdleScanner:
    """Finds no watch, and ends the scans of its thread at a time of the clock."""

    def __init__(self, clock: Clock, end_s: float, stopped: threading.Event) -> None:
        self.times_s: list[float] = []
        self._clock = clock
        self._end_s = end_s
        self._stopped = stopped

    def scan(self) -> Watches:
        self.times_s.append(self._clock())
        if self._clock() >= self._end_s:
            self._stopped.set()
        return Watches()


def test_scans_with_a_long_attr_timeout(
    tree: InProcess, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V-2: One request causes few scans, and a new watch is seen within 2 s after a request, and
    later within a twentieth of the time since then."""
    monkeypatch.setattr(events, "time", SimpleNamespace(monotonic=clock, thread_time=lambda: 0.0))
    operations = EventOperations(tree.core.tree, AttributePolicy(0, 0, 0), lambda: 0)
    operations.requested = TimedEvent(clock)
    operations.requested.set()
    stopped = TimedEvent(clock)
    begun_s = clock()
    scanner = IdleScanner(clock, begun_s + 3600.0, stopped)
    EventThread(tree.core.tree, operations, scanner, NoSender(), stopped, settle_s=7200.0).run()
    pauses_s = [after - before for before, after in pairwise(scanner.times_s)]
    assert len(pauses_s) < 150
    for pause_s, scan_s in zip(pauses_s, scanner.times_s, strict=False):
        assert pause_s <= max(2.0, (scan_s - begun_s) / 20 + 0.1)

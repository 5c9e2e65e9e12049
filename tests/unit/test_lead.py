"""`taskfs.fuse.kernel.lead`, in a session without a kernel: no request waits behind another."""

import errno
import queue
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, cast

import pytest

from taskfs.fuse.attributes import FileAttributes
from taskfs.fuse.kernel.channel import Channel
from taskfs.fuse.kernel.lead import MAX_QUIET, WATCH_S, Lead
from taskfs.fuse.kernel.protocol import (
    HEADER_IN,
    HEADER_OUT,
    INIT_IN,
    MAJOR,
    ROOT_ID,
    Opcode,
    Packer,
)
from taskfs.fuse.kernel.session import MAX_IDLE, Session
from taskfs.fuse.operations import StatFs, TaskOperations
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter

MINOR = 31  # of the protocol, as Linux 5.4 has it
SOON_S = 30.0  # a busy machine


class FakeChannel:
    """A channel whose requests a test puts in, and whose answers it takes out."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.threads: set[int] = set()
        self.readers = 0
        self.most_readers = 0

    def receive(self, buffer: bytearray) -> int:
        self.readers += 1
        self.most_readers = max(self.most_readers, self.readers)
        self.threads.add(threading.get_ident())
        message = self.requests.get()
        self.readers -= 1
        if not message:
            self.requests.put(b"")  # the mount is gone for each thread
        buffer[: len(message)] = message
        return len(message)

    def send(self, parts: Sequence[Buffer]) -> bool:
        self.answers.put(HEADER_OUT.unpack_from(bytes(parts[0]))[2])
        return True

    def ask(self, opcode: int, unique: int, body: bytes = b"", nodeid: int = ROOT_ID) -> None:
        head = HEADER_IN.pack(HEADER_IN.size + len(body), opcode, unique, nodeid, 0, 0, 1, 0)
        self.requests.put(head + body)


class Served:
    """A session that runs: STATFS is answered at once, GETATTR when `wait` returns."""

    def __init__(self, wait: Callable[[], object]) -> None:
        self.channel = FakeChannel()
        ready = threading.Event()

        def operations(op: str, path: str, *args: Any) -> object:
            if op == "statfs":
                return StatFs()
            wait()
            raise OSError(errno.ENOENT, "")

        self.session = Session(
            cast(TaskOperations, operations), cast(Channel, self.channel), Packer(1.0), ready.set
        )
        self.channel.ask(Opcode.INIT, 1, INIT_IN.pack(MAJOR, MINOR, 0, 0) + bytes(48))
        self.thread = threading.Thread(target=self.session.serve, daemon=True)
        self.thread.start()
        assert ready.wait(SOON_S)
        assert self.answer() == 1

    def answer(self) -> int:
        return self.channel.answers.get(timeout=SOON_S)

    def end(self) -> None:
        self.channel.requests.put(b"")
        self.thread.join(SOON_S)
        assert not self.thread.is_alive()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    gate = threading.Event()
    yield gate
    gate.set()


def test_one_thread_answers_what_need_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-40: Requests that wait for nothing, or for work that is done, are read and answered by one
    thread."""
    monkeypatch.setattr(Lead, "watch", lambda lead: None)  # it takes a slow answer for a wait
    done: Future[None] = Future()
    done.set_result(None)
    served = Served(lambda: Waiter().result(done))
    served.channel.threads.clear()  # of the first request
    for unique in range(2, 500):
        served.channel.ask(Opcode.STATFS if unique % 2 else Opcode.GETATTR, unique)
        assert served.answer() == unique
    assert len(served.channel.threads) == 1
    assert served.channel.most_readers == 1
    served.end()


def test_a_wait_that_is_announced_hands_the_lead_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-40: While requests wait for the store, others are answered at once, without the watchdog
    that finds other waits."""
    monkeypatch.setattr(Lead, "watch", lambda lead: None)
    future: Future[None] = Future()
    served = Served(lambda: Waiter().result(future))
    for unique in range(2, 2 + 3 * MAX_IDLE):
        served.channel.ask(Opcode.GETATTR, unique)
    served.channel.ask(Opcode.STATFS, 1000)
    assert served.answer() == 1000
    future.set_result(None)
    assert sorted(served.answer() for _ in range(3 * MAX_IDLE)) == [*range(2, 2 + 3 * MAX_IDLE)]
    assert served.channel.most_readers == 1
    served.end()


def test_a_wait_that_is_not_announced_is_found(gate: threading.Event) -> None:
    """R-40: A request that hangs in a lock or a system call holds no other one up for long."""
    served = Served(gate.wait)
    for turn in range(5):
        # In every other turn the watchdog sleeps by then.
        time.sleep(WATCH_S * (MAX_QUIET + 5) * (turn % 2))
        served.channel.ask(Opcode.GETATTR, 2 * turn)
        served.channel.ask(Opcode.STATFS, 2 * turn + 1)
        assert served.answer() == 2 * turn + 1
    gate.set()
    assert sorted(served.answer() for _ in range(5)) == [0, 2, 4, 6, 8]
    served.end()


def test_the_lead_is_handed_over_once() -> None:
    """R-40: Only the thread that serves a request hands its lead over, and only once."""
    handed = []
    lead = Lead(lambda: handed.append(True))
    lead.take()
    lead.begin(2)
    lead.hand_over(4)
    assert handed == []
    lead.hand_over(2)
    lead.hand_over(2)
    assert handed == [True] and not lead.keep(2)
    lead.take()
    lead.begin(6)
    lead.hand_over(2)
    assert lead.keep(6) and handed == [True]


class ChangingOperations:
    """Operations of which each look at a file loads another version of its archive meanwhile."""

    def __init__(self) -> None:
        self.changes = 0

    def __call__(self, op: str, path: str, *args: Any) -> FileAttributes:
        self.changes += path.endswith("file")
        kind = stat.S_IFDIR if path.endswith("folder") else stat.S_IFREG
        return FileAttributes(kind, 7, 1, 0, 0, 1, 1, 0, 0, 4096)

    def keep_versions(self, invalidate: Callable[[str, Callable[[], None]], None]) -> None:
        pass

    def is_loaded_directory(self, path: str) -> bool:
        return False


def test_an_answer_during_a_change_is_dropped_again() -> None:
    """F-10: Attributes of a file that are answered while another version is loaded may be old, so
    the kernel is told to drop them after the answer. Others are kept."""
    channel, operations, ready = FakeChannel(), ChangingOperations(), threading.Event()
    session = Session(
        cast(TaskOperations, operations), cast(Channel, channel), Packer(1.0), ready.set
    )
    session.keep_versions()
    channel.ask(Opcode.INIT, 1, INIT_IN.pack(MAJOR, MINOR, 0, 0) + bytes(48))
    thread = threading.Thread(target=session.serve, daemon=True)
    thread.start()
    assert channel.answers.get(timeout=SOON_S) == 1
    folder = ROOT_ID + 1
    for unique, name, nodeid in (
        (2, b"folder", ROOT_ID),
        (4, b"other", folder),
        (6, b"file", folder),
    ):
        channel.ask(Opcode.LOOKUP, unique, name + b"\0", nodeid)
        assert channel.answers.get(timeout=SOON_S) == unique
    # One message for each of the names, after the answer.
    assert [channel.answers.get(timeout=SOON_S) for _ in range(3)] == [0, 0, 0]
    channel.requests.put(b"")
    thread.join(SOON_S)
    assert not thread.is_alive()

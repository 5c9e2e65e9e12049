"""The boundary of the kernel engine: each exception becomes an errno and one line of the log.

Requests are the bytes that the kernel would send, and answers what it would get; there is no mount.
"""

import errno
import logging
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, cast

import pytest
import requests

from taskfs import errors
from taskfs.errors import Interrupted, MountError, TaskFSError
from taskfs.fuse.attributes import AttributePolicy
from taskfs.fuse.engine_support import why_not_kernel
from taskfs.fuse.kernel.channel import Channel
from taskfs.fuse.kernel.protocol import Opcode, Packer
from taskfs.fuse.kernel.session import Session, interrupted
from taskfs.fuse.operations import TaskOperations
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from taskfs.tree.handles import ControlHandle, PushableHandle
from taskfs.tree.nodes import Attrs, Node
from taskfs.tree.page_cache import PageCacheMode
from taskfs.tree.tree import Tree
from tests.fork_server import ROOT
from tests.unit.failing_trees import OURS, TRANSPORT_ERRORS, Failing, Folders


class FakeChannel:
    """A channel without a device: `receive` returns the *requests*, `sent` has the replies."""

    def __init__(self, *requests: bytes) -> None:
        self.requests = list(requests)
        self.sent: list[bytes] = []

    def receive(self, buffer: bytearray) -> int:
        if not self.requests:
            time.sleep(0.2)
            return 0  # unmounted
        request = self.requests.pop(0)
        buffer[: len(request)] = request
        return len(request)

    def send(self, parts: Sequence[Buffer]) -> bool:
        self.sent.append(b"".join(parts))
        return True


def request(
    opcode: int, body: bytes = b"", *, nodeid: int = 1, unique: int = 2, uid: int = 0
) -> bytes:
    """Return a request as the kernel sends it (struct fuse_in_header, linux/fuse.h)."""
    head = struct.pack("=IIQQIIII", 40 + len(body), opcode, unique, nodeid, uid, 0, 0, 0)
    return head + body


INIT = request(Opcode.INIT, struct.pack("=IIII", 7, 45, 131072, 0x73FFFFFB).ljust(64, b"\0"))


class Serving:
    """A session on a tree of the test's own."""

    def __init__(
        self,
        tree: Any,
        on_ready: Callable[[], None] = lambda: None,
        users: frozenset[int] | None = None,
        operations: type[TaskOperations] = TaskOperations,
    ) -> None:
        self.wire = FakeChannel()
        policy = AttributePolicy(1000, 1001, 0o027)
        self.operations = operations(cast(Tree, tree), policy, Stats())
        channel, packer = cast(Channel, self.wire), Packer(1.5)
        self.session = Session(self.operations, channel, packer, on_ready, users)

    def answers(self, opcode: int, body: bytes = b"", **head: int) -> list[tuple[int, bytes]]:
        """Serve one request; return what went out: the errno and the body of each answer."""
        self.wire.sent.clear()
        self.session.answer(memoryview(request(opcode, body, **head)))
        found = []
        for answer in self.wire.sent:
            length, error, unique = struct.unpack_from("=IiQ", answer)
            assert length == len(answer) and unique in (0, head.get("unique", 2))
            found.append((-error, answer[16:]))
        return found

    def answer(self, opcode: int, body: bytes = b"", **head: int) -> tuple[int, bytes]:
        [only] = self.answers(opcode, body, **head)
        return only


def errno_of(operations: TaskOperations, kind: str, *arguments: Any) -> int | None:
    with pytest.raises(OSError) as caught:
        operations(kind, *arguments)
    return caught.value.errno


def test_a_private_file_stays_private() -> None:
    """A-24: `--file-mode` does not open a file that only its owner may read."""
    policy = AttributePolicy(file_mode=0o666, dir_mode=0o700)
    assert policy.apply(Attrs(0o100600, 2)).mode == 0o100600
    assert policy.apply(Attrs(0o100755, 2)).mode == 0o100666
    assert policy.apply(Attrs(0o040755, 2)).mode == 0o040700
    assert policy.apply(Attrs(0o120777, 2)).mode == 0o120777


@pytest.mark.parametrize("failure", TRANSPORT_ERRORS, ids=lambda exc: f"{type(exc).__name__}-{exc}")
def test_foreign_exceptions_are_eio_and_logged_once(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """X-4, X-10: A foreign exception is EIO and logged once, also an OSError without an errno, as
    `requests` raises."""
    serving = Serving(Failing(failure))
    assert serving.answer(Opcode.LOOKUP, b"status\0") == (errno.EIO, b"")
    assert serving.answer(Opcode.SETATTR, struct.pack("=II80x", 8, 0)) == (errno.EIO, b"")
    assert serving.answer(Opcode.LISTXATTR, struct.pack("=II", 0, 0)) == (errno.EIO, b"")
    assert len(caplog.records) == 3
    record = caplog.records[0]
    assert "getattr /status" in record.getMessage()
    assert "truncate /" in caplog.records[1].getMessage()
    assert record.exc_info and record.exc_info[1] is failure


@pytest.mark.parametrize("failure", TRANSPORT_ERRORS, ids=lambda exc: f"{type(exc).__name__}-{exc}")
def test_an_exception_that_passes_the_operations_is_eio(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """X-4: An exception that passes the operations is caught at the boundary."""

    class Passing(TaskOperations):
        def __call__(self, kind: str, path: str, *arguments: Any) -> Any:
            raise failure

    serving = Serving(Failing(), operations=Passing)
    assert serving.answer(Opcode.STATFS) == (errno.EIO, b"")
    assert len(caplog.records) == 1
    # The session no longer knows the request.
    interrupt = struct.pack("=Q", 2)
    assert serving.answer(Opcode.INTERRUPT, interrupt, unique=3) == (errno.EAGAIN, b"")


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_our_errors_have_their_errno_and_are_logged_once(
    kind: type[TaskFSError], caplog: pytest.LogCaptureFixture
) -> None:
    """X-10: Each failure is logged once, with operation, path and cause."""
    caplog.set_level(logging.DEBUG, "taskfs")
    serving = Serving(Failing(kind("the cause")))
    assert serving.answer(Opcode.LOOKUP, b"link\0") == (kind.errno, b"")
    assert kind.errno > 0
    assert kind.errno != errno.EAGAIN
    assert len(caplog.records) == 1
    for part in ("getattr", "/link", errno.errorcode[kind.errno], "the cause"):
        assert part in caplog.records[0].getMessage()


def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Y-6: Logs hold no keys or signatures."""
    url = "https://store/t/output.zip?Signature=abcdef&Expires=1"
    operations = Serving(Failing(errors.BadResponse(f"GET {url}: X-API-Key: sesame"))).operations
    assert errno_of(operations, "getattr", f"/{url}") == errno.EIO
    assert "abcdef" not in caplog.text
    assert "sesame" not in caplog.text


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_a_base_exception_ends_the_mount(
    failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """E-5: A BaseException ends the mount."""
    serving = Serving(Failing(failure))
    serving.wire.requests = [INIT, request(Opcode.LOOKUP, b"status\0")]
    with pytest.raises(MountError) as caught:
        serving.session.serve()
    assert caught.value.__cause__ is failure
    answers = [struct.unpack_from("=i", answer, 4)[0] for answer in serving.wire.sent]
    assert answers == [0, -errno.EIO]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "failure",
    [KeyError("x"), OSError(errno.EPERM, "no"), requests.ConnectionError(), MountError("none")],
)
def test_a_failure_of_the_live_callback_ends_the_mount(failure: Exception) -> None:
    """E-6: A failure in the callback of a live mount ends the mount."""

    def fail() -> None:
        raise failure

    serving = Serving(Failing(), fail)
    serving.wire.requests = [INIT]
    with pytest.raises(MountError):
        serving.session.serve()


def test_the_mount_is_live_once_the_kernel_has_its_answer() -> None:
    """E-6: The mount counts as live once the kernel has the answer to INIT."""
    ready: list[int] = []
    serving = Serving(Failing(), lambda: ready.append(len(serving.wire.sent)))
    serving.wire.requests = [INIT]
    serving.session.serve()
    assert ready == [1]
    [answer] = serving.wire.sent
    assert struct.unpack_from("=IiQII", answer) == (len(answer), 0, 2, 7, 31)


LARGE_PAGES: Final = """
import mmap, os, struct, sys
mmap.PAGESIZE = 65536
from tests.unit.test_boundary import INIT, Failing, Serving, request
from taskfs.fuse.kernel.session import MAX_REQUEST

serving = Serving(Failing())
serving.wire.requests = [INIT]
serving.session.serve()
[answer] = serving.wire.sent
*_, max_write, _, max_pages, _ = struct.unpack_from("=IIIIHHIIHH", answer, 16)
print(max_pages * mmap.PAGESIZE, MAX_REQUEST - max_write)
from taskfs.fuse.attributes import AttributePolicy
from taskfs.tree.nodes import Attrs
print(AttributePolicy().apply(Attrs(0o100644, 5, 1, 0, 0, 1)).block_size)
"""


def test_the_page_size_is_the_systems() -> None:
    """R-26: With pages of 64 KiB a read is as long, in pages."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE_PAGES], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == [str(1 << 20), "65536", "65536"], done.stderr


def test_exports_are_not_offered_to_the_kernel() -> None:
    """U-8: FUSE_EXPORT_SUPPORT is not offered to the kernel."""
    serving = Serving(Failing())
    serving.wire.requests = [INIT]
    serving.session.serve()
    features = struct.unpack_from("=IIII", serving.wire.sent[0], 16)[3]
    assert features
    assert not features & 1 << 4


@pytest.mark.parametrize("gone", [errno.ENODEV, errno.ECONNABORTED])
def test_a_lost_connection_ends_the_mount_without_a_failure(gone: int) -> None:
    """E-1: ENODEV and ECONNABORTED from /dev/fuse (fuse(4)) are an end and no failure."""
    reading, writing = os.pipe()
    channel = Channel(reading)

    def refuse(*args: Any) -> int:
        raise OSError(gone, os.strerror(gone))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "readv", refuse)
        patched.setattr(os, "writev", refuse)
        assert channel.receive(bytearray(100)) == 0
        assert not channel.send([b"answer"])
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("version", [(7, 22), (6, 45), (8, 0)])
def test_a_kernel_that_speaks_another_protocol_is_refused(version: tuple[int, int]) -> None:
    """R-23: A kernel with too old a protocol is refused."""
    serving = Serving(Failing())
    serving.wire.requests = [request(Opcode.INIT, struct.pack("=IIII48x", *version, 131072, 0))]
    with pytest.raises(MountError, match=r"Linux 4\.18"):
        serving.session.serve()


def test_doctor_names_the_oldest_linux_that_was_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-23: `taskfs doctor` says of an older kernel which one is needed."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "", "4.17.19", "", "")))
    assert why_not_kernel() == "it needs Linux 4.18 or newer, and this is 4.17.19"


def test_unknown_requests_are_enosys() -> None:
    """linux/fuse.h: ENOSYS is for good: a flush, an access check, a request of newer kernels."""
    serving = Serving(Failing())
    for opcode in (25, 34, 46, 47, 51, 52, 4000):
        assert serving.answer(opcode) == (errno.ENOSYS, b"")
    assert serving.answer(Opcode.IOCTL) == (errno.ENOTTY, b"")


def test_requests_are_served_one_by_one_without_more_threads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """R-19: Where no more threads can start, requests are served one by one."""
    serving, start = Serving(Failing()), threading.Thread.start
    started: list[threading.Thread] = []

    def start_one(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    serving.wire.requests = [INIT, *(request(Opcode.STATFS, unique=2 * n) for n in (2, 3, 4))]
    serving.session.serve()
    answers = [struct.unpack_from("=iQ", answer, 4) for answer in serving.wire.sent]
    assert answers == [(0, 2), (0, 4), (0, 6), (0, 8)]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_an_answer_that_the_kernel_refuses_becomes_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An answer that the kernel refuses becomes an error for its caller, and the mount goes on."""
    serving = Serving(Folders())
    take, refused = serving.wire.send, [OSError(errno.ENOMEM, "no room")]

    def send(parts: Sequence[Buffer]) -> bool:
        if refused:
            raise refused.pop()
        return take(parts)

    serving.wire.send = send  # type: ignore[method-assign]
    assert serving.answer(Opcode.STATFS) == (errno.EIO, b"")
    assert serving.answer(Opcode.STATFS)[0] == 0
    assert len(caplog.records) == 1


def test_an_interrupt_reaches_its_request_only() -> None:
    """K-13: Only the interrupted request learns of its interruption."""
    seen = []

    class Waiting(Failing):
        def resolve(self, path: str) -> Node:
            seen.append(interrupted())
            other = struct.pack("=Q", 9)
            serving.session.answer(memoryview(request(Opcode.INTERRUPT, other, unique=11)))
            seen.append(interrupted())
            mine = struct.pack("=Q", 8)
            serving.session.answer(memoryview(request(Opcode.INTERRUPT, mine, unique=13)))
            seen.append(interrupted())
            raise Interrupted("a signal")

    serving = Serving(Waiting())
    serving.session.answer(memoryview(request(Opcode.LOOKUP, b"status\0", unique=8)))
    assert seen == [False, False, True]
    # An unknown request gets EAGAIN, so the kernel repeats the interrupt; a known one no answer.
    answers = [struct.unpack_from("=iQ", answer, 4) for answer in serving.wire.sent]
    assert answers == [(-errno.EAGAIN, 11), (-errno.EINTR, 8)]
    assert not interrupted()


def test_attributes_are_packed_for_the_kernel() -> None:
    """A-1, A-2: Attributes become fuse_entry_out and fuse_attr (linux/fuse.h), with owner, umask
    and times."""

    class Place(Node):
        def attrs(self) -> Attrs:
            return Attrs(0o100644, 77, 12345, -1, 1_700_000_000_123_456_789, 25)

    class NodeTable(Failing):
        def resolve(self, path: str) -> Node:
            assert path == "/a\udcff"
            return Place(path)

    serving = Serving(NodeTable())
    error, entry = serving.answer(Opcode.LOOKUP, b"a\xff\0")
    assert error == 0
    nodeid, generation, *valid = struct.unpack_from("=QQQQII", entry)
    assert nodeid > 1
    assert (generation, valid) == (0, [1, 1, 500_000_000, 500_000_000])
    attr = struct.unpack_from("=QQQqqqIIIIIIIIII", entry, 40)
    assert attr == (
        *(77, 12345, 25, -1, -1, 1_700_000_000, 10**9 - 1, 10**9 - 1, 123_456_789),
        *(0o100640, 1, 1000, 1001, 0, 4096, 0),
    )
    error, answer = serving.answer(Opcode.GETATTR, bytes(16), nodeid=nodeid)
    assert struct.unpack_from("=QII", answer) == (1, 500_000_000, 0)
    assert answer[16:] == entry[40:]


def entries(listing: bytes, attrs: bool) -> list[tuple[int, int, int, int, bytes]]:
    """Return the nodeid, inode, offset, type and name of each entry."""
    found, at = [], 0
    while at < len(listing):
        nodeid = struct.unpack_from("=Q", listing, at)[0] if attrs else 0
        at += 128 if attrs else 0
        ino, offset, length, kind = struct.unpack_from("=QQII", listing, at)
        found.append((nodeid, ino, offset, kind, listing[at + 24 : at + 24 + length]))
        at += 24 + length + -length % 8
    return found


def test_one_name_that_is_not_utf8_does_not_fail_a_listing() -> None:
    """X-17, N-17: One name that is not UTF-8 does not fail a listing."""
    serving = Serving(Folders())
    fh, *_ = struct.unpack("=QII", serving.answer(Opcode.OPENDIR, bytes(8))[1])
    _, listing = serving.answer(Opcode.READDIR, struct.pack("=QQI20x", fh, 0, 4096))
    names = [(kind, name) for *_, kind, name in entries(listing, attrs=False)]
    assert names[2:] == [(8, b"a"), (4, b"b\xff"), (10, "ü".encode())]


def test_a_listing_sends_attributes_that_cost_no_request() -> None:
    """R-11: A listing reports attributes where they cost nothing, else name and type."""
    serving = Serving(Folders())
    fh, *_ = struct.unpack("=QII", serving.answer(Opcode.OPENDIR, bytes(8))[1])
    _, listing = serving.answer(Opcode.READDIRPLUS, struct.pack("=QQI20x", fh, 0, 4096))
    found = entries(listing, attrs=True)
    assert [name for *_, name in found] == [b".", b"..", b"a", b"b\xff", "ü".encode()]
    assert [bool(nodeid) for nodeid, *_ in found] == [False, False, True, False, False]
    nodeid = found[2][0]
    # The kernel knows the node now, and forgets each of the replies that named it.
    assert serving.answer(Opcode.READDIRPLUS, struct.pack("=QQI20x", fh, 2, 4096))[0] == 0
    assert serving.answers(Opcode.FORGET, struct.pack("=Q", 1), nodeid=nodeid) == []
    assert serving.answer(Opcode.GETATTR, bytes(16), nodeid=nodeid)[0] == 0
    assert serving.answers(Opcode.BATCH_FORGET, struct.pack("=IIQQ", 1, 0, nodeid, 1)) == []
    assert serving.answer(Opcode.GETATTR, bytes(16), nodeid=nodeid)[0] == errno.ENOENT


def test_a_listing_sends_its_lifetime() -> None:
    """F-10: A listing whose lifetime is that of a version is kept for 24 h, any other for the attr
    timeout."""
    serving = Serving(Folders())
    fh, *_ = struct.unpack("=QII", serving.answer(Opcode.OPENDIR, bytes(8))[1])
    body = struct.pack("=QQI20x", fh, 2, 4096)
    _, listing = serving.answer(Opcode.READDIRPLUS, body)
    _, _, *valid = struct.unpack_from("=QQQQII", listing)
    assert valid == [1, 1, 500_000_000, 500_000_000]
    nodeid = struct.unpack_from("=Q", serving.answer(Opcode.LOOKUP, b"deeper\0")[1])[0]
    fh, *_ = struct.unpack("=QII", serving.answer(Opcode.OPENDIR, bytes(8), nodeid=nodeid)[1])
    body = struct.pack("=QQI20x", fh, 2, 4096)
    _, listing = serving.answer(Opcode.READDIRPLUS, body, nodeid=nodeid)
    assert struct.unpack_from("=QQQQII", listing)[2:] == (86400, 86400, 0, 0)


@pytest.mark.parametrize("opcode", [Opcode.READDIR, Opcode.READDIRPLUS])
@pytest.mark.parametrize("size", [200, 330, 400, 4096])
def test_a_listing_continues_at_its_offset(opcode: int, size: int) -> None:
    """readdir(3): each name once, however little is asked for at once."""
    serving, found, offset = Serving(Folders()), [], 0
    fh, *_ = struct.unpack("=QII", serving.answer(Opcode.OPENDIR, bytes(8))[1])
    while True:
        error, listing = serving.answer(opcode, struct.pack("=QQI20x", fh, offset, size))
        assert (error, len(listing) <= size) == (0, True)
        if not listing:
            break
        part = entries(listing, attrs=opcode == Opcode.READDIRPLUS)
        found += [name for *_, name in part]
        offset = part[-1][2]
    assert found == [b".", b"..", b"a", b"b\xff", "ü".encode()]
    assert serving.answer(Opcode.RELEASEDIR, struct.pack("=Q16x", fh)) == (0, b"")
    body = struct.pack("=QQI20x", fh, 0, size)
    assert serving.answer(opcode, body)[0] == errno.EBADF


class Ahead(PushableHandle):
    """An open file with pieces that may be pushed."""

    def __init__(
        self, *ready: range, fails: bool = False, mode: PageCacheMode = PageCacheMode.KEEP
    ) -> None:
        self.mode = mode
        self.size, self.version = 1 << 30, None
        self.ready = list(ready)
        self.fails = fails

    def read_at(self, offset: int, size: int) -> bytes:
        return offset.to_bytes(8, "little") * (size // 8)

    def read_for_push(self, offset: int, size: int) -> bytes:
        if self.fails:
            raise errors.CorruptData("wrong")
        return self.read_at(offset, size)

    def take_pushable(self) -> range:
        return self.ready.pop(0) if self.ready else range(0)

    def write(self, piece: bytes) -> int:
        raise errors.ReadOnly("no")

    def close(self) -> None:
        pass


class OneFile(Failing):
    """A tree whose every path is a file with the open *handle*."""

    def __init__(self, handle: Ahead) -> None:
        super().__init__()
        self.handle = handle

    def resolve(self, path: str) -> Node:
        handle = self.handle

        class Opening(Node):
            def open(self, *, writing: bool) -> Any:
                return handle

        return Opening(path)


def read_of(handle: Ahead, *ready: range) -> list[bytes]:
    """Open *handle*, let it have pieces *ready*, read its first 8 bytes; return what went out."""
    serving = Serving(OneFile(handle))
    fh, *_ = struct.unpack("=QII", serving.answer(Opcode.OPEN, bytes(8))[1])
    handle.ready = list(ready)
    serving.answers(Opcode.READ, struct.pack("=QQI20x", fh, 0, 8))
    return serving.wire.sent


def test_ready_bytes_are_pushed_before_the_answer() -> None:
    """linux/fuse.h, NOTIFY_STORE: a message without a request, its code in place of an errno."""
    sent = read_of(Ahead(), range(8, 24), range(24, 40))
    assert [struct.unpack_from("=IiQ", message) for message in sent] == [
        *((56, 4, 0), (56, 4, 0)),
        (24, 0, 2),
    ]
    assert struct.unpack_from("=QQII", sent[0], 16) == (1, 8, 16, 0)
    assert sent[0][40:] == (8).to_bytes(8, "little") * 2
    assert struct.unpack_from("=QQII", sent[1], 16) == (1, 24, 16, 0)
    assert sent[2][16:] == bytes(8)


@pytest.mark.parametrize("mode", PageCacheMode)
def test_ready_bytes_are_pushed_with_the_open(mode: PageCacheMode) -> None:
    """R-9: Cached bytes are pushed with the open where the kernel keeps its pages."""
    serving = Serving(OneFile(Ahead(range(16), mode=mode)))
    serving.session.answer(memoryview(request(Opcode.OPEN, bytes(8))))
    answers = [struct.unpack_from("=iQ", message, 4) for message in serving.wire.sent]
    assert answers == ([(4, 0), (0, 2)] if mode is PageCacheMode.KEEP else [(0, 2)])


def test_a_failed_push_fails_no_read(caplog: pytest.LogCaptureFixture) -> None:
    """R-9: A push that fails fails no reader of right bytes."""
    sent = read_of(Ahead(fails=True), range(8, 24))
    assert [struct.unpack_from("=IiQ", message) for message in sent] == [(24, 0, 2)]
    assert len(caplog.records) == 1


def test_a_buffer_that_is_too_small_is_erange() -> None:
    """getxattr(2): a size of 0 returns the length, and a buffer that is too short is ERANGE."""

    class Marked(Node):
        def xattr_names(self) -> list[str]:
            return ["user.taskfs.a", "user.taskfs.b"]

    class NodeTable(Failing):
        def resolve(self, path: str) -> Node:
            return Marked(path)

    serving = Serving(NodeTable())
    names = b"user.taskfs.a\0user.taskfs.b\0"
    assert serving.answer(Opcode.LISTXATTR, struct.pack("=II", 0, 0)) == (
        0,
        struct.pack("=II", len(names), 0),
    )
    assert serving.answer(Opcode.LISTXATTR, struct.pack("=II", 20, 0)) == (errno.ERANGE, b"")
    assert serving.answer(Opcode.LISTXATTR, struct.pack("=II", 200, 0)) == (0, names)


def test_with_allow_root_other_users_are_refused() -> None:
    """Y-8: `--allow-root` admits root only: the kernel knows only allow_other, so the session
    checks each request's user."""
    serving = Serving(Folders(), users=frozenset({0, 1000}))
    for uid, error in ((0, 0), (1000, 0), (65534, errno.EACCES)):
        assert serving.answer(Opcode.OPENDIR, bytes(8), uid=uid)[0] == error


def test_unknown_handles_are_ebadf() -> None:
    """A handle that is not open is EBADF."""
    operations = Serving(Failing()).operations
    assert errno_of(operations, "read", "/t/status", 10, 0, 12345) == errno.EBADF
    assert errno_of(operations, "write", "/t/kill", b"1", 0, 12345) == errno.EBADF
    operations("release", "/t/status", 12345)


def test_an_unexpected_error_of_a_command_is_its_outcome() -> None:
    """K-3: After an unexpected error a later write through the handle fails too."""

    starts = []

    def fail() -> "Future[None]":
        starts.append(1)
        raise MemoryError

    handle = ControlHandle(fail, Waiter())
    for _ in range(2):
        with pytest.raises(MemoryError):
            handle.write(b"1")
    assert len(starts) == 1


def test_an_interrupt_is_no_outcome_of_a_command() -> None:
    """K-13, K-3: A write after EINTR waits for the outcome of the request that was sent."""
    signals = iter([True, True])
    request: Future[None] = Future()
    starts = []

    def start() -> "Future[None]":
        starts.append(1)
        return request

    handle = ControlHandle(start, Waiter(lambda: next(signals, False)))
    for _ in range(2):
        with pytest.raises(Interrupted):
            handle.write(b"1")
    request.set_result(None)
    assert [handle.write(b"1"), handle.write(b"23")] == [1, 2]
    assert len(starts) == 1

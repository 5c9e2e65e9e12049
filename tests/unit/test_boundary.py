"""The boundary: whatever is raised behind it, the kernel gets an errno and the log one line."""

import ctypes
import errno
import logging
import threading
from collections.abc import Callable
from typing import Any, cast

import fuse
import pytest
import requests

from taskfs import errors
from taskfs.errors import Interrupted, TaskFSError
from taskfs.handles import CommandHandle, HandleTable
from taskfs.nodes import Attrs, Directory, Entry, Node
from taskfs.operations import TaskOperations
from taskfs.session import ENCODING, Session
from taskfs.tree import Tree

FOREIGN = (
    requests.ConnectionError("refused"),
    requests.Timeout(),
    TimeoutError("timed out"),
    KeyError("missing"),
    MemoryError(),
    OSError(None, "an errno of None"),
    OSError(),
    ValueError("bad"),
    RecursionError(),
    ZeroDivisionError(),
    AssertionError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    fuse.FuseOSError(errno.EIO),
)
OURS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, TaskFSError) and kind is not TaskFSError
]


class Failing:
    """A tree all of whose answers are one exception."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure
        self.handles = HandleTable()

    def resolve(self, path: str) -> Node:
        if self.failure is not None:
            raise self.failure
        return Node(path)

    def attrs(self, path: str) -> Attrs:
        return self.resolve(path).attrs()


def operations_on(tree: Any, on_ready: Callable[[], None] = lambda: None) -> TaskOperations:
    return TaskOperations(cast(Tree, tree), on_ready, lambda: None)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Counts how often the mount was told to end, which needs one to work."""
    ended: list[bool] = []
    monkeypatch.setattr(fuse, "fuse_exit", lambda: ended.append(True))
    return ended


def session_on(operations: TaskOperations) -> Session:
    """Return a session that is not mounted."""
    session = Session.__new__(Session)
    session._uid, session._gid, session._umask = 1000, 1001, 0o027
    session._kept = threading.local()
    session._failure = None
    session.operations = operations
    session.raw_fi, session.encoding, session.use_ns = True, ENCODING, True
    return session


def call(session: Session, name: str, *arguments: Any) -> int:
    """Call one callback as libfuse would."""
    return session._wrapper(getattr(session, name), *arguments)


def errno_of(operations: TaskOperations, kind: str, *arguments: Any) -> int | None:
    with pytest.raises(fuse.FuseOSError) as caught:
        operations(kind, *arguments)
    return cast("int | None", caught.value.errno)


@pytest.mark.parametrize("failure", FOREIGN, ids=lambda exc: f"{type(exc).__name__}-{exc}")
def test_foreign_exceptions_are_eio_and_logged_once(
    failure: Exception, caplog: pytest.LogCaptureFixture, ended: list[bool]
) -> None:
    """fusepy notes, Corrections 1: map everything else to -EIO, logged once: `requests` exceptions
    are OSErrors with errno None."""
    session = session_on(operations_on(Failing(failure)))
    stat = fuse.c_stat()
    assert call(session, "getattr", b"/t/status", ctypes.pointer(stat)) == -errno.EIO
    assert call(session, "truncate", b"/t/kill", 0) == -errno.EIO
    assert call(session, "listxattr", b"/t", None, 0) == -errno.EIO
    assert ended == []
    if not isinstance(failure, fuse.FuseOSError):
        assert len(caplog.records) == 3
        record = caplog.records[0]
        assert "getattr /t/status" in record.getMessage()
        assert record.exc_info and record.exc_info[1] is failure


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_our_errors_have_their_errno_and_are_logged_once(
    kind: type[TaskFSError], caplog: pytest.LogCaptureFixture
) -> None:
    """README, Errors: Each failure is logged once, at the boundary, with operation, path and
    cause."""
    caplog.set_level(logging.DEBUG, "taskfs")
    session = session_on(operations_on(Failing(kind("the cause"))))
    assert call(session, "readlink", b"/t/link", None, 10) == -kind.errno
    assert kind.errno > 0
    assert kind.errno != errno.EAGAIN
    assert len(caplog.records) == 1
    for part in ("readlink", "/t/link", errno.errorcode[kind.errno], "the cause"):
        assert part in caplog.records[0].getMessage()


def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """README, Errors: … and without keys or signatures."""
    url = "https://store/t/output.zip?Signature=abcdef&Expires=1"
    operations = operations_on(Failing(errors.BadAnswer(f"GET {url}: X-API-Key: sesame")))
    assert errno_of(operations, "getattr", f"/{url}") == errno.EIO
    assert "abcdef" not in caplog.text
    assert "sesame" not in caplog.text


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_a_base_exception_ends_the_mount(
    failure: BaseException, caplog: pytest.LogCaptureFixture, ended: list[bool]
) -> None:
    """fusepy notes, Corrections 1: let BaseException end the mount."""
    session = session_on(operations_on(Failing(failure)))
    assert call(session, "truncate", b"/t/kill", 0) == -errno.EIO
    assert session.failure is failure
    assert ended == [True]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "failure",
    [KeyError("x"), OSError(errno.EPERM, "no"), requests.ConnectionError(), SystemExit(2)],
)
def test_a_failure_of_init_ends_the_mount(failure: BaseException, ended: list[bool]) -> None:
    """fusepy notes, Corrections 1: An exception in `init` is swallowed: it must end the mount."""

    def fail() -> None:
        raise failure

    session = session_on(operations_on(Failing(), fail))
    call(session, "init", None)
    assert session.failure is failure
    assert ended == [True]


def test_init_that_succeeds_goes_on(ended: list[bool]) -> None:
    """fusepy notes, Starting and stopping: its `init` says that the mount is live."""
    ready: list[bool] = []
    session = session_on(operations_on(Failing(), lambda: ready.append(True)))
    assert call(session, "init", None) == 0
    assert (ready, ended, session.failure) == ([True], [], None)


def test_threads_keep_their_state() -> None:
    """fusepy notes, Corrections 2: `threading.local` survives from callback to callback."""
    session = session_on(operations_on(Failing()))
    session._wrapper(lambda: 0)
    kept = session._kept.state
    session._wrapper(lambda: 0)
    assert session._kept.state is kept


def test_attributes_become_struct_stat() -> None:
    """fusepy notes, Corrections 4: `getattr` without a dict; README, Attributes: owner, umask."""

    class Place(Node):
        def attrs(self) -> Attrs:
            return Attrs(0o100644, 77, 12345, -1, 1_700_000_000_123_456_789, 25)

    class Places(Failing):
        def resolve(self, path: str) -> Node:
            assert path == "/a\udcff"
            return Place(path)

    stat = fuse.c_stat()
    stat.st_size, stat.st_rdev = 99, 99
    session = session_on(operations_on(Places()))
    assert call(session, "getattr", b"/a\xff", ctypes.pointer(stat)) == 0
    assert (stat.st_mode, stat.st_ino, stat.st_size, stat.st_blocks) == (0o100640, 77, 12345, 25)
    assert (stat.st_uid, stat.st_gid, stat.st_nlink, stat.st_rdev) == (1000, 1001, 1, 0)
    assert (stat.st_mtimespec.tv_sec, stat.st_mtimespec.tv_nsec) == (-1, 10**9 - 1)
    assert (stat.st_ctimespec.tv_sec, stat.st_ctimespec.tv_nsec) == (1_700_000_000, 123_456_789)


def test_one_name_that_is_not_utf8_does_not_fail_a_listing() -> None:
    """fusepy notes, Corrections 3: One name that is not UTF-8 makes a whole listing EINVAL."""

    class Place(Directory):
        def children(self) -> list[Entry]:
            return [Entry("a", 0o100644, 5), Entry("b\udcff", 0o040755, 6), Entry("ü", 0o120777, 7)]

    class Places(Failing):
        def resolve(self, path: str) -> Node:
            return Place(path)

    listed: list[tuple[bytes, int, int]] = []

    def fill(buffer: Any, name: bytes, stat: Any, offset: int) -> int:
        listed.append((name, stat._obj.st_mode, stat._obj.st_ino) if stat else (name, 0, 0))
        return 0

    session = session_on(operations_on(Places()))
    assert call(session, "readdir", b"/", None, fill, 0, None) == 0
    assert listed == [
        *((b".", 0, 0), (b"..", 0, 0), (b"a", 0o100644, 5)),
        *((b"b\xff", 0o040755, 6), ("ü".encode(), 0o120777, 7)),
    ]
    assert "x\udcff".encode(ENCODING) == b"x\xff"
    assert b"x\xff".decode(ENCODING) == "x\udcff"


def test_unknown_handles_are_ebadf() -> None:
    """README, Errors: a handle that is not open."""

    class Info:
        fh = 12345

    operations = operations_on(Failing())
    assert errno_of(operations, "read", "/t/status", 10, 0, Info()) == errno.EBADF
    assert errno_of(operations, "write", "/t/kill", b"1", 0, Info()) == errno.EBADF
    operations("release", "/t/status", Info())


def test_a_command_with_an_unexpected_error_never_counts_as_done() -> None:
    """README, Control files: `write(2)` returns once the API accepted it or refused it: a later
    write does not succeed where the first one failed, whatever it failed with."""

    def fail() -> None:
        raise MemoryError

    handle = CommandHandle(fail)
    with pytest.raises(MemoryError):
        handle.write(b"1")
    with pytest.raises(TaskFSError):
        handle.write(b"1")


def test_an_interrupted_command_is_not_an_outcome() -> None:
    """README, Control files: EINTR: a program that tries again after a signal (PEP 475) waits for
    the outcome of what was sent, and does not get EINTR for ever."""
    outcomes: list[TaskFSError | None] = [Interrupted("a signal"), Interrupted("a signal"), None]

    def command() -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    handle = CommandHandle(command)
    for _ in range(2):
        with pytest.raises(Interrupted):
            handle.write(b"1")
    assert [handle.write(b"1"), handle.write(b"23")] == [1, 2]
    assert outcomes == []

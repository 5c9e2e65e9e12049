"""The corrections of fusepy that the fusepy engine needs; the boundary without a mount."""

import ctypes
import errno
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import fuse
import pytest

from taskfs.errors import TaskFSError
from taskfs.fuse import fusepy_loop, path_codec
from taskfs.fuse.attributes import AttributePolicy, FileAttributes
from taskfs.fuse.fusepy_loop import FuseLoop, pack_stat
from taskfs.fuse.fusepy_operations import FusepyOperations
from taskfs.fuse.operations import TaskOperations
from taskfs.support.stats import Stats
from taskfs.tree.nodes import Attrs, Node
from taskfs.tree.page_cache import PageCacheMode
from taskfs.tree.tree import Tree
from tests.fork_server import ROOT
from tests.unit.failing_trees import OURS, TRANSPORT_ERRORS, Failing, Folders


class Loop:
    """A loop on a tree of the test's own, without libfuse's part: the test makes the calls."""

    def __init__(self, tree: Any, on_init: Callable[[], None] = lambda: None) -> None:
        operations = TaskOperations(cast(Tree, tree), AttributePolicy(1000, 1001, 0o027), Stats())
        self.operations = FusepyOperations(operations, on_init)
        self.loop = FuseLoop.__new__(FuseLoop)
        self.loop.operations = self.operations
        self.loop.encoding, self.loop.raw_fi = path_codec.NAME, True
        path_codec.register()

    def call(self, name: str, *arguments: Any) -> int:
        """Return what libfuse would get from one call."""
        return self.loop._wrapper(getattr(self.loop, name), *arguments)


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The calls that end libfuse's loop."""
    calls: list[int] = []
    monkeypatch.setattr(fuse, "fuse_exit", lambda: calls.append(1))
    return calls


@pytest.mark.parametrize("failure", TRANSPORT_ERRORS, ids=lambda exc: f"{type(exc).__name__}-{exc}")
def test_foreign_exceptions_are_eio_and_logged_once(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """After an OSError without errno fusepy answers with a random
    number, and a read then ends early without an error."""
    loop = Loop(Failing(failure))
    assert loop.call("getattr", b"/status", fuse.c_stat()) == -errno.EIO
    assert loop.call("listxattr", b"/status", None, 0) == -errno.EIO
    assert len(caplog.records) == 2


@pytest.mark.parametrize("failure", TRANSPORT_ERRORS, ids=lambda exc: f"{type(exc).__name__}-{exc}")
def test_an_exception_that_passes_the_operations_is_eio(
    failure: Exception, caplog: pytest.LogCaptureFixture, exits: list[int]
) -> None:
    """No exception leaves the boundary."""

    def fail(path: bytes) -> int:
        raise failure

    assert Loop(Failing()).loop._wrapper(fail, b"/") == -errno.EIO
    assert len(caplog.records) == 1
    assert not exits


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_our_errors_have_their_errno(kind: type[TaskFSError]) -> None:
    """The errno is the same on both engines."""
    loop = Loop(Failing(kind("the cause")))
    assert loop.call("getattr", b"/link", fuse.c_stat()) == -kind.errno
    assert loop.call("readdir", b"/link", None, None, 0, None) == -(
        errno.EIO if kind.errno == errno.ENOENT else kind.errno
    )


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_a_base_exception_ends_the_mount(failure: BaseException, exits: list[int]) -> None:
    """An exception that is no Exception ends the mount."""
    loop = Loop(Failing(failure))
    assert loop.call("getattr", b"/", fuse.c_stat()) == -errno.EIO
    assert (loop.operations.failure, exits) == (failure, [1])


@pytest.mark.parametrize("failure", [KeyError("x"), OSError(errno.EPERM, "no")])
def test_an_exception_in_init_ends_the_mount(failure: Exception, exits: list[int]) -> None:
    """Fusepy only logs what fails in `init`."""

    def fail() -> None:
        raise failure

    loop = Loop(Failing(), fail)
    loop.call("init", None)
    assert (loop.operations.failure, exits) == (failure, [1])
    assert not loop.operations.is_live


def test_one_name_that_is_not_utf8_does_not_fail_a_listing() -> None:
    """Names may have any byte but `/` and NUL; the strict codec of fusepy is not used."""
    found = []

    def fill(buf: Any, name: bytes, stat: Any, offset: int) -> int:
        found.append((name, stat.contents.st_mode >> 12, stat.contents.st_ino))
        return 0

    assert Loop(Folders()).call("readdir", b"/x", None, fill, 0, None) == 0
    assert [name for name, *_ in found] == [b".", b"..", b"a", b"b\xff", "ü".encode()]
    assert found[2:] == [(b"a", 8, 5), (b"b\xff", 4, 6), ("ü".encode(), 10, 7)]


@pytest.mark.parametrize("raw", [b"plain", b"b\xff", "ü".encode(), b"\x80\xc3"])
def test_names_keep_their_bytes(raw: bytes) -> None:
    """Names that are not UTF-8 are shown."""
    path_codec.register()
    assert raw.decode(path_codec.NAME).encode(path_codec.NAME) == raw
    assert path_codec.encode_name(path_codec.decode_name(raw)) == raw


def test_attributes_are_packed_as_this_system_has_them() -> None:
    """stat(2): the bytes that the engine copies are the structure that fusepy knows."""
    attrs = FileAttributes(0o100640, 2**53 - 1, 12345, -1, 1_700_000_000_123456789, 25, 1, 2, 3, 4)
    stat = fuse.c_stat.from_buffer_copy(pack_stat(attrs))
    assert (stat.st_mode, stat.st_ino, stat.st_size) == (0o100640, 2**53 - 1, 12345)
    assert (stat.st_blocks, stat.st_nlink, stat.st_uid, stat.st_gid) == (25, 1, 2, 3)
    assert (stat.st_blksize, stat.st_dev, stat.st_rdev) == (4, 0, 0)
    for times in (stat.st_mtimespec, stat.st_atimespec):
        assert (times.tv_sec, times.tv_nsec) == (-1, 10**9 - 1)
    assert (stat.st_ctimespec.tv_sec, stat.st_ctimespec.tv_nsec) == (1_700_000_000, 123456789)


def test_owner_and_umask_are_the_mounts() -> None:
    """A-1, A-2: Owner and modes are applied above the engine."""

    class File(Node):
        def attrs(self) -> Attrs:
            return Attrs(0o100644, 77, 5)

    class Files(Failing):
        def resolve(self, path: str) -> Node:
            return File(path)

    stat = fuse.c_stat()
    assert Loop(Files()).call("getattr", b"/a", ctypes.pointer(stat)) == 0
    assert (stat.st_mode, stat.st_uid, stat.st_gid) == (0o100640, 1000, 1001)


@pytest.mark.parametrize("mode", PageCacheMode)
def test_each_open_file_says_how_its_pages_are_kept(mode: PageCacheMode) -> None:
    """A global kernel_cache would show bytes of an older version."""

    class Handle:
        def __init__(self) -> None:
            self.mode = mode

    class Opening(Node):
        def open(self, *, writing: bool) -> Any:
            return Handle()

    class Files(Failing):
        def resolve(self, path: str) -> Node:
            return Opening(path)

    info = fuse.fuse_file_info()
    assert Loop(Files()).call("open", b"/a", ctypes.pointer(info)) == 0
    assert info.fh == 1
    assert bool(info.keep_cache) is (mode is PageCacheMode.KEEP)
    assert bool(info.direct_io) is (mode is PageCacheMode.DIRECT)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b))])
def test_a_read_takes_any_buffer(kind: Callable[[bytes], Any]) -> None:
    """ctypes takes the address of bytes alone."""

    class Handle:
        mode = PageCacheMode.KEEP

        def read_at(self, offset: int, size: int) -> Any:
            return kind(b"0123456789")[offset : offset + size]

    class Opening(Node):
        def open(self, *, writing: bool) -> Any:
            return Handle()

    class OneFile(Failing):
        def resolve(self, path: str) -> Node:
            return Opening(path)

    loop, info = Loop(OneFile()), fuse.fuse_file_info()
    assert loop.call("open", b"/a", ctypes.pointer(info)) == 0
    room = ctypes.create_string_buffer(8)
    assert loop.call("read", b"/a", room, 4, 3, ctypes.pointer(info)) == 4
    assert room.raw == b"3456" + bytes(4)
    assert loop.call("read", b"/a", room, 4, 20, ctypes.pointer(info)) == 0


def test_the_table_of_operations_goes_on_to_fallocate() -> None:
    """fuse.h of libfuse 2.9: fusepy's table ends with ioctl, and posix_fallocate(3) would write a
    byte, which is a kill."""
    ours, theirs = fusepy_loop.OperationsTable, fuse.fuse_operations
    assert ours.fallocate.offset == ours.ioctl.offset + 5 * ctypes.sizeof(ctypes.c_void_p)
    for name, *_ in theirs._fields_:
        assert getattr(ours, name).offset == getattr(theirs, name).offset
    assert Loop(Failing()).call("fallocate", b"/t/kill", 0, 0, 4096, None) == -errno.EROFS


STATES: Final = """
import os, subprocess, sys, threading
from pathlib import Path
from taskfs.fuse.engine import MountOptions
from taskfs.fuse.fusepy_engine import FusepyEngine
from taskfs.tree.nodes import Attrs
from taskfs.fuse.attributes import AttributePolicy

mountpoint, local, fresh = Path(sys.argv[1]), threading.local(), []

class Operations:
    def __call__(self, op, path, *args):
        if not hasattr(local, "seen"):
            local.seen = True
            fresh.append(path)
        return AttributePolicy().apply(Attrs(0o040755, 1))

def live():
    threading.Thread(target=look, daemon=True).start()

def look():
    for number in range(300):
        os.stat(mountpoint / str(number))
    subprocess.run(["fusermount", "-uz", mountpoint], check=True)

FusepyEngine(mountpoint, MountOptions(attr_timeout_s=0)).serve(Operations(), lambda: None, live)
print(len(fresh))
"""


@pytest.mark.mount
def test_a_native_thread_keeps_its_thread_state(tmp_path: Path) -> None:
    """Fusepy makes a new thread state for each call: thread-local
    data is lost, and `stat` takes half as long again."""
    (tmp_path / "mnt").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", STATES, str(tmp_path / "mnt")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) <= 20


def test_the_number_of_kept_states_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of a thread that libfuse ended is never freed."""
    kept: list[int] = []
    monkeypatch.setattr(ctypes.pythonapi, "PyGILState_Ensure", lambda: kept.append(1))
    for _ in range(fusepy_loop.MAX_KEPT_STATES + 5):
        thread = threading.Thread(target=fusepy_loop.keep_thread_state)
        thread.start()
        thread.join()
    # Other tests of this process may have kept some.
    assert len(kept) <= fusepy_loop.MAX_KEPT_STATES

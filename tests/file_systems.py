"""One interface to the tree for tests: in process and through a kernel.

`InProcess` calls `TaskOperations` as `Dispatch` does; `Mounted` makes system calls. A test of a
`FileSystem` runs on both. Paths are relative to the mountpoint; every failure is an OSError.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import pytest

from taskfs.core import Core
from taskfs.fuse.attributes import AttributePolicy
from taskfs.fuse.operations import OpenResult, TaskOperations
from taskfs.support.buffers import Buffer
from taskfs.support.stats import Stats
from tests.fake_api import FakeCloud

T = TypeVar("T")

REQUEST: Final = 128 << 10  # bytes of the largest read request of a kernel


class Stat(Protocol):
    """The fields of `os.stat` that both file systems have."""

    @property
    def st_mode(self) -> int: ...
    @property
    def st_ino(self) -> int: ...
    @property
    def st_size(self) -> int: ...
    @property
    def st_blocks(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...
    @property
    def st_ctime_ns(self) -> int: ...


class OpenFile(Protocol):
    """One open file."""

    def read_at(self, offset: int, size: int) -> bytes: ...
    def write(self, piece: bytes) -> int: ...


class FileSystem(Protocol):
    """A tree that can be read and written to."""

    cloud: FakeCloud

    def stat(self, path: str) -> Stat: ...
    def names(self, path: str = "") -> list[str]: ...
    def target(self, path: str) -> str: ...
    def read(self, path: str) -> bytes: ...
    def open(self, path: str, flags: int = os.O_RDONLY) -> "AbstractContextManager[OpenFile]": ...
    def xattrs(self, path: str) -> list[str]: ...
    def xattr(self, path: str, name: str) -> bytes: ...
    def set_xattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None: ...
    def remove_xattr(self, path: str, name: str) -> None: ...
    def change(self, kind: str, path: str, *arguments: Any) -> None: ...


def errno_of(call: Callable[[], object]) -> int | None:
    """Return the errno that *call* fails with."""
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno


def answer(call: Callable[[], T]) -> T:
    """Return the result of *call*. Where `--timeout` is short because a test waits for it, a busy
    machine takes longer for a healthy request: repeat it."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except TimeoutError:
            if time.monotonic() > deadline:
                raise


def text(fs: FileSystem, path: str) -> str:
    """Return a text file's content."""
    return fs.read(path).decode()


def write(fs: FileSystem, path: str, piece: bytes = b"1\n") -> int:
    """Open for writing, write once, close."""
    with fs.open(path, os.O_WRONLY) as opened:
        return int(opened.write(piece))


def assert_same(actual: Buffer, expected: bytes) -> None:
    """Fail with the first difference. pytest's own comparison of long bytes takes minutes."""
    if actual != expected:
        pairs = enumerate(zip(actual, expected, strict=False))
        at = next((n for n, (a, b) in pairs if a != b), min(len(actual), len(expected)))
        raise AssertionError(
            f"{len(actual)} bytes instead of {len(expected)}, differing from {at} on: "
            f"{actual[at : at + 20]!r} instead of {expected[at : at + 20]!r}"
        )


def walk(fs: FileSystem, top: str) -> Iterator[str]:
    """Yield the files beneath *top*, relative to it."""
    for name in fs.names(top):
        path = f"{top}/{name}"
        if (fs.stat(path).st_mode & 0o170000) == 0o040000:
            yield from (f"{name}/{below}" for below in walk(fs, path))
        else:
            yield name


@dataclass(frozen=True)
class _Stat:
    st_mode: int
    st_ino: int
    st_size: int
    st_blocks: int
    st_mtime_ns: int
    st_ctime_ns: int


class _OpenInProcess:
    def __init__(self, operations: TaskOperations, path: str, opened: OpenResult) -> None:
        self._operations, self._path, self.opened = operations, path, opened

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self._operations("read", self._path, size, offset, self.opened.fh))

    def write(self, piece: bytes) -> int:
        return int(self._operations("write", self._path, piece, 0, self.opened.fh))


@dataclass
class InProcess:
    """The operations called directly, without a kernel."""

    cloud: FakeCloud
    core: Core
    operations: TaskOperations = field(init=False)

    def __post_init__(self) -> None:
        self.operations = TaskOperations(self.core.tree, AttributePolicy(), Stats())

    def stat(self, path: str) -> Stat:
        attrs = self.operations("getattr", f"/{path}")
        return _Stat(
            attrs.mode, attrs.ino, attrs.size, attrs.blocks, attrs.mtime_ns, attrs.ctime_ns
        )

    def names(self, path: str = "") -> list[str]:
        return [entry.name for entry in self.operations("readdir", f"/{path}").entries]

    def target(self, path: str) -> str:
        return str(self.operations("readlink", f"/{path}"))

    @contextmanager
    def open(self, path: str, flags: int = os.O_RDONLY) -> Iterator[_OpenInProcess]:
        opened = self.operations("open", f"/{path}", flags)
        try:
            yield _OpenInProcess(self.operations, f"/{path}", opened)
        finally:
            self.operations("release", f"/{path}", opened.fh)

    def read(self, path: str) -> bytes:
        content = bytearray()
        with self.open(path) as opened:
            while piece := opened.read_at(len(content), REQUEST):
                content += piece
        return bytes(content)

    def xattrs(self, path: str) -> list[str]:
        return list(self.operations("listxattr", f"/{path}"))

    def xattr(self, path: str, name: str) -> bytes:
        return bytes(self.operations("getxattr", f"/{path}", name))

    def set_xattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        self.operations("setxattr", f"/{path}", name, value, flags)

    def remove_xattr(self, path: str, name: str) -> None:
        self.operations("removexattr", f"/{path}", name)

    def change(self, kind: str, path: str, *arguments: Any) -> None:
        """Call a modifying operation by its name in libfuse; path arguments begin with a slash."""
        self.operations(kind, f"/{path}", *arguments)


class _OpenOnMount:
    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def write(self, piece: bytes) -> int:
        return os.write(self.descriptor, piece)


@dataclass
class Mounted:
    """A mount, through system calls."""

    cloud: FakeCloud
    path: Path

    def stat(self, path: str) -> Stat:
        return os.lstat(self.path / path)

    def names(self, path: str = "") -> list[str]:
        return os.listdir(self.path / path)

    def target(self, path: str) -> str:
        return os.readlink(self.path / path)

    @contextmanager
    def open(self, path: str, flags: int = os.O_RDONLY) -> Iterator[_OpenOnMount]:
        descriptor = os.open(self.path / path, flags)
        try:
            yield _OpenOnMount(descriptor)
        finally:
            os.close(descriptor)

    def read(self, path: str) -> bytes:
        return (self.path / path).read_bytes()

    def xattrs(self, path: str) -> list[str]:
        return os.listxattr(self.path / path, follow_symlinks=False)

    def xattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self.path / path, name, follow_symlinks=False)

    def set_xattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        os.setxattr(self.path / path, name, value, flags, follow_symlinks=False)

    def remove_xattr(self, path: str, name: str) -> None:
        os.removexattr(self.path / path, name, follow_symlinks=False)

    def change(self, kind: str, path: str, *arguments: Any) -> None:
        """Call a modifying operation by its name in libfuse; path arguments begin with a slash."""
        target = self.path / path
        if kind == "create":
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, *arguments[:1]))
        elif kind == "utimens":
            os.utime(target)
        elif kind == "rename":
            os.rename(target, f"{self.path}{arguments[0]}")
        elif kind == "symlink":
            os.symlink(arguments[0], target)
        elif kind == "link":
            os.link(f"{self.path}{arguments[0]}", target)
        else:
            getattr(os, kind)(target, *arguments)

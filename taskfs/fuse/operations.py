"""Requests by path in, attributes and bytes out, errors to errno; what a task looks like is decided
in `tree`, and how the kernel puts a request in `dispatch`."""

import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from taskfs.errors import NoAttribute, ReadOnly, TaskFSError
from taskfs.support.buffers import Buffer
from taskfs.support.redaction import redact
from taskfs.tasks.archives import PageCacheMode
from taskfs.tree.nodes import Attrs, Entry
from taskfs.tree.tree import Tree

log = logging.getLogger(__name__)

XATTR_PREFIX: Final = "user.taskfs."
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
WRITING: Final = os.O_WRONLY | os.O_RDWR
_UNITS: Final = 1 << 40


class StatFs(NamedTuple):
    """What `df` shows, in units of 4096 bytes: never full, and told without the network."""

    blocks: int = _UNITS
    free: int = _UNITS // 2
    files: int = 1 << 32
    free_files: int = 1 << 31
    unit: int = 4096
    longest_name: int = 255


class OpenResult(NamedTuple):
    """An open file's number, and what the kernel may do with its pages."""

    fh: int
    mode: PageCacheMode


class DirectoryListing(NamedTuple):
    """A listing, what gives the attributes of what is in it where that costs nothing, and what
    tells for how many seconds they may be kept."""

    entries: Sequence[Entry]
    known_attrs: Callable[[str], Attrs | None]
    attr_lifetime_s: Callable[[], float]


# Answers that programs ask for all the time: nothing failed.
_QUIET: Final = frozenset({errno.ENOENT, errno.ENODATA, errno.EROFS, errno.EINTR, errno.ENOTDIR})


class TaskOperations:
    """One mounted tree. Safe for concurrent use, as the tree is."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def __call__(self, op: str, path: str, *args: Any) -> Any:
        """Serve one request: here an exception becomes an OSError with its errno."""
        is_logged = log.isEnabledFor(logging.DEBUG)
        began_s = time.monotonic() if is_logged else 0.0
        try:
            result = getattr(self, op)(path, *args)
            if is_logged:
                taken_ms = 1000 * (time.monotonic() - began_s)
                log.debug("%s %s: %s in %.1f ms", op, _shown(path), _size(args, result), taken_ms)
            return result
        except TaskFSError as exc:
            is_quiet = exc.is_logged or exc.errno in _QUIET
            level = logging.DEBUG if is_quiet else logging.WARNING
            name = errno.errorcode.get(exc.errno, "?")
            log.log(level, "%s %s: %s: %s", op, _shown(path), name, redact(str(exc)))
            raise OSError(exc.errno, name) from exc
        except Exception as exc:
            log.exception("%s %s: unexpected error", op, _shown(path))
            raise OSError(errno.EIO, "unexpected error") from exc

    def getattr(self, path: str) -> Attrs:
        return self._tree.attrs(path)

    def opendir(self, path: str) -> None:
        """Return if there is something at *path*."""
        self._tree.resolve(path)

    def readdir(self, path: str) -> DirectoryListing:
        node = self._tree.resolve(path)
        return DirectoryListing(list(node.children()), node.known_attrs, node.attr_lifetime_s)

    def readlink(self, path: str) -> str:
        return self._tree.resolve(path).target()

    def open(self, path: str, flags: int) -> OpenResult:
        handle = self._tree.resolve(path).open(writing=bool(flags & WRITING))
        return OpenResult(self._tree.handles.add(handle), handle.mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> Buffer:
        return self._tree.handles.get(fh).read_at(offset, size)

    def read_for_push(self, path: str, size: int, offset: int, fh: int) -> Buffer:
        return self._tree.handles.get(fh).read_for_push(offset, size)

    def take_pushable(self, path: str, fh: int) -> range:
        return self._tree.handles.get(fh).take_pushable()

    def write(self, path: str, piece: bytes, offset: int, fh: int) -> int:
        return self._tree.handles.get(fh).write(piece)

    def release(self, path: str, fh: int) -> None:
        self._tree.handles.close(fh)

    def refuse(self, path: str, *args: Any) -> None:
        """What would make, move or remove a name."""
        raise ReadOnly(f"nothing is made, moved or removed: {path}")

    # Of `fallocate` the kernel must not hear ENOSYS: glibc's posix_fallocate(3) would then write a
    # byte, which is a kill.
    create = fallocate = link = mkdir = mknod = rename = rmdir = symlink = unlink = refuse

    def setattr(self, path: str, *args: Any) -> None:
        """What would set size, mode, owner or times."""
        self._tree.resolve(path).change()

    chmod = chown = truncate = utimens = setattr

    def statfs(self, path: str) -> StatFs:
        return StatFs()

    def listxattr(self, path: str) -> list[str]:
        return self._tree.resolve(path).xattr_names()

    def getxattr(self, path: str, name: str) -> bytes:
        if not name.startswith(XATTR_PREFIX):
            raise NoAttribute(name)  # the kernel asks for security.* all the time
        return self._tree.resolve(path).xattr(name).encode("utf-8", "surrogateescape")

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        self._tree.resolve(path).set_xattr(
            name, value, create=bool(flags & XATTR_CREATE), replace=bool(flags & XATTR_REPLACE)
        )

    def removexattr(self, path: str, name: str) -> None:
        self._tree.resolve(path).remove_xattr(name)


def _size(args: Sequence[Any], result: Any) -> str:
    """Return what a log says of an operation's numbers and of its result; no content of either."""
    numbers = [str(arg) for arg in args if isinstance(arg, int)]
    if isinstance(result, DirectoryListing):
        outcome = f"{len(result.entries)} names"
    elif isinstance(result, (bytes, bytearray, memoryview)):
        outcome = f"{len(result)} bytes"
    else:
        outcome = "ok"
    return f"({', '.join(numbers)}) {outcome}" if numbers else outcome


def _shown(path: str) -> str:
    return redact((path or "/").encode("utf-8", "backslashreplace").decode())

"""FUSE requests in, attributes and bytes out, errors to errno; what a task looks like is decided
in `tree`."""

import errno
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, Final

from fuse import FuseOSError, Operations

from taskfs.buffers import Buffer
from taskfs.errors import NoAttribute, TaskFSError
from taskfs.nodes import Attrs, Entry
from taskfs.redaction import redact
from taskfs.shelf import CacheMode
from taskfs.tree import Tree

log = logging.getLogger(__name__)

XATTR_PREFIX: Final = "user.taskfs."
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
WRITING: Final = os.O_WRONLY | os.O_RDWR
# What `df` shows: room that is never full, told without the network.
_UNITS: Final = 1 << 40
_STATFS: Final = {
    "f_bsize": 4096,
    "f_frsize": 4096,
    "f_blocks": _UNITS,
    "f_bfree": _UNITS // 2,
    "f_bavail": _UNITS // 2,
    "f_files": 1 << 32,
    "f_ffree": 1 << 31,
    "f_favail": 1 << 31,
    "f_namemax": 255,
}
# Answers that programs ask for all the time: nothing failed.
_QUIET: Final = frozenset({errno.ENOENT, errno.ENODATA, errno.EROFS, errno.EINTR, errno.ENOTDIR})


class TaskOperations(Operations):  # type: ignore[misc]  # fusepy is untyped
    """One mounted tree. Safe for concurrent use, as the tree is."""

    use_ns = True
    # What the kernel need not ask: a close that flushes, the opening of a directory.
    flush = opendir = releasedir = None

    def __init__(
        self, tree: Tree, on_ready: Callable[[], None], on_end: Callable[[], None]
    ) -> None:
        self._tree = tree
        self._on_ready = on_ready
        self._on_end = on_end

    def __call__(self, op: str, *args: Any) -> Any:
        """Serve one request: here an exception becomes an errno (`init` excepted: it must end
        the mount)."""
        if op == "init":
            return self.init(*args)
        try:
            return getattr(self, op)(*args)
        except FuseOSError:
            raise  # the refusals of the base class, such as EROFS for mkdir
        except TaskFSError as exc:
            level = logging.DEBUG if exc.errno in _QUIET else logging.WARNING
            name = errno.errorcode.get(exc.errno, "?")
            log.log(level, "%s %s: %s: %s", op, _shown(args), name, redact(str(exc)))
            raise FuseOSError(exc.errno) from exc
        except Exception as exc:
            log.exception("%s %s: unexpected error", op, _shown(args))
            raise FuseOSError(errno.EIO) from exc

    def init(self, path: str) -> None:
        self._on_ready()

    def destroy(self, path: str) -> None:
        self._on_end()

    def getattr(self, path: str, fh: Any = None) -> Attrs:
        return self._tree.attrs(path)

    def readdir(self, path: str, fh: Any) -> Iterable[Entry]:
        return self._tree.resolve(path).children()

    def readlink(self, path: str) -> str:
        return self._tree.resolve(path).target()

    def open(self, path: str, fi: Any) -> int:
        handle = self._tree.resolve(path).open(writing=bool(fi.flags & WRITING))
        fi.fh = self._tree.handles.add(handle)
        fi.direct_io = handle.mode is CacheMode.DIRECT
        fi.keep_cache = handle.mode is CacheMode.KEEP
        return 0

    def read(self, path: str, size: int, offset: int, fi: Any) -> Buffer:
        return self._tree.handles.get(fi.fh).read_at(offset, size)

    def write(self, path: str, piece: bytes, offset: int, fi: Any) -> int:
        return self._tree.handles.get(fi.fh).write(piece)

    def release(self, path: str, fi: Any) -> int:
        self._tree.handles.close(fi.fh)
        return 0

    def truncate(self, path: str, length: int, fh: Any = None) -> int:
        self._tree.resolve(path).change()
        return 0

    def utimens(self, path: str, times: Any = None) -> int:
        self._tree.resolve(path).change()
        return 0

    def chmod(self, path: str, mode: int) -> int:
        self._tree.resolve(path).change()
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        self._tree.resolve(path).change()
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        return _STATFS

    def listxattr(self, path: str) -> list[str]:
        return self._tree.resolve(path).xattr_names()

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        if not name.startswith(XATTR_PREFIX):
            raise NoAttribute(name)  # the kernel asks for security.* all the time
        return self._tree.resolve(path).xattr(name).encode("utf-8", "surrogateescape")

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
        self._tree.resolve(path).set_xattr(
            name,
            value,
            create=bool(options & XATTR_CREATE),
            replace=bool(options & XATTR_REPLACE),
        )
        return 0

    def removexattr(self, path: str, name: str) -> int:
        self._tree.resolve(path).remove_xattr(name)
        return 0


def _shown(args: tuple[Any, ...]) -> str:
    path = args[0] if args else ""
    if isinstance(path, bytes):  # of a read, which does not need it
        path = path.decode("utf-8", "surrogateescape")
    return redact(str(path).encode("utf-8", "backslashreplace").decode())

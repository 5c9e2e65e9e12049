"""`FusepyOperations`: the operations of a mount in the form that fusepy calls.

With `raw_fi`, fusepy passes libfuse's structure of an open file instead of its number.
"""

import errno
import logging
from collections.abc import Callable
from typing import Any, Final

import fuse

from taskfs.fuse.attributes import FileAttributes
from taskfs.fuse.operations import OpenResult, StatFs, TaskOperations
from taskfs.support.buffers import Buffer
from taskfs.tree.nodes import DIRECTORY_MODE, Entry, inode
from taskfs.tree.page_cache import PageCacheMode

log = logging.getLogger(__name__)


class FusepyOperations(fuse.Operations):  # type: ignore[misc]
    """Translates fusepy's calls to *operations*. Safe for concurrent use, as those are.

    *on_init* is called with the kernel's first request. `is_live` is set once it has returned.
    `failure` is the exception that ends the mount, if one does.
    """

    use_ns = True
    # Without these, libfuse answers ENOSYS, and the kernel sends no more such requests: there is
    # nothing to write back, and with default_permissions the kernel checks access itself.
    access = bmap = flush = fsync = fsyncdir = lock = releasedir = destroy = None

    def __init__(self, operations: TaskOperations, on_init: Callable[[], None]) -> None:
        self._operations = operations
        self._on_init = on_init
        self.is_live = False
        self.failure: BaseException | None = None

    def init(self, path: str) -> None:
        self._on_init()
        self.is_live = True

    def getattr(self, path: str, fi: Any = None) -> FileAttributes:
        """Return the attributes, which `FuseLoop` packs, and not a dict as fusepy itself wants."""
        attrs: FileAttributes = self._operations("getattr", path)
        return attrs

    def opendir(self, path: str) -> int:
        self._operations("opendir", path)
        return 0

    def readdir(self, path: str, fh: int) -> list[Entry]:
        """Return the entries, `.` and `..` included.

        ENOENT becomes EIO, because readdir(3) of glibc takes ENOENT for the end of the directory: a
        program would see it empty, and `rsync --delete` would empty its copy.
        """
        try:
            entries = self._operations("readdir", path).entries
        except OSError as exc:
            if exc.errno == errno.ENOENT:
                raise OSError(errno.EIO, "the directory is gone") from exc
            raise
        inner = path.strip("/")
        return [
            Entry(".", DIRECTORY_MODE, inode(inner)),
            Entry("..", DIRECTORY_MODE, inode(inner.rpartition("/")[0])),
            *entries,
        ]

    def readlink(self, path: str) -> str:
        return str(self._operations("readlink", path))

    def open(self, path: str, fi: Any) -> int:
        opened: OpenResult = self._operations("open", path, fi.flags)
        fi.fh = opened.fh
        fi.keep_cache = opened.mode is PageCacheMode.KEEP
        fi.direct_io = opened.mode is PageCacheMode.DIRECT
        return 0

    def read(self, path: str, size: int, offset: int, fi: Any) -> Buffer:
        piece: Buffer = self._operations("read", path, size, offset, fi.fh)
        return piece

    def write(self, path: str, piece: bytes, offset: int, fi: Any) -> int:
        return int(self._operations("write", path, piece, offset, fi.fh))

    def release(self, path: str, fi: Any) -> int:
        self._operations("release", "", fi.fh)  # without the path, which may no longer exist
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        stat: StatFs = self._operations("statfs", path)
        return {
            "f_bsize": stat.unit,
            "f_frsize": stat.unit,
            "f_namemax": stat.name_max,
            "f_blocks": stat.blocks,
            "f_bfree": stat.free,
            "f_bavail": stat.free,
            "f_files": stat.files,
            "f_ffree": stat.free_files,
            "f_favail": stat.free_files,
        }

    def listxattr(self, path: str) -> list[str]:
        return list(self._operations("listxattr", path))

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        return bytes(self._operations("getxattr", path, name))

    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
        self._operations("setxattr", path, name, value, options)
        return 0

    def removexattr(self, path: str, name: str) -> int:
        self._operations("removexattr", path, name)
        return 0

    def fallocate(self, path: str) -> int:
        self._operations("fallocate", path)
        raise OSError(errno.EROFS, "nothing is preallocated")

    def __call__(self, op: str, path: str, *args: Any) -> Any:
        if op in _BY_PATH:
            self._operations(op, path)  # the attributes of a new name are asked for again
            return 0
        return super().__call__(op, path, *args)


# Operations that only the path decides: refused, or accepted without an effect.
_BY_PATH: Final = frozenset(
    {"chmod", "chown", "truncate", "utimens"}
    | {"create", "link", "mkdir", "mknod", "rename", "rmdir", "symlink", "unlink"}
)

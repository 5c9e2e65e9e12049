"""`FuseLoop`: fusepy's `FUSE` with the corrections that a long-running mount needs.

- Every exception becomes an errno at one boundary, and an exception in `init` ends the mount.
  fusepy itself answers success after some exceptions.
- A native thread keeps its Python thread state between two callbacks. Python otherwise makes one
  for each callback, which slows `stat` down.
- `getattr`, `readdir` and `read` copy bytes to libfuse without a dict or a ctypes field for each
  value.
- `fallocate` is refused; fusepy's table of operations ends before it.

It overrides methods that libfuse calls, and `_wrapper`, which fusepy puts around each.
"""

import ctypes
import errno
import itertools
import logging
import sys
import threading
from collections.abc import Callable
from operator import itemgetter
from struct import Struct
from typing import Any, Final

import fuse

from taskfs.fuse import path_codec
from taskfs.fuse.attributes import FileAttributes
from taskfs.fuse.fusepy_operations import FusepyOperations
from taskfs.fuse.operations import StatFs
from taskfs.fuse.path_codec import decode_name, encode_name
from taskfs.support.buffers import address_of, addressable

log = logging.getLogger(__name__)

NAME_MAX: Final = StatFs().name_max
# Native threads that keep their thread state. libfuse ends idle threads after a burst, and the
# state of an ended thread (some 20 KB) is never freed, so the number must be bounded.
MAX_KEPT_STATES: Final = 64

_thread = threading.local()
_kept_states = itertools.count(1)


def keep_thread_state() -> None:
    """Keep the calling native thread's Python thread state, and so its thread-local data."""
    if not getattr(_thread, "is_kept", False) and next(_kept_states) <= MAX_KEPT_STATES:
        ctypes.pythonapi.PyGILState_Ensure()
        _thread.is_kept = True


# The fields of `struct stat`, and the values that `_pack_stat` has for each, by index.
_FIELDS: Final = {
    "st_mode": (0,),
    "st_ino": (1,),
    "st_size": (2,),
    "st_blocks": (3,),
    "st_nlink": (4,),
    "st_uid": (5,),
    "st_gid": (6,),
    "st_blksize": (7,),
    "st_mtimespec": (8, 9),
    "st_ctimespec": (10, 11),
    "st_atimespec": (8, 9),
}


def _stat_layout() -> tuple[Struct, Callable[[tuple[int, ...]], tuple[int, ...]], int]:
    """Return this system's `struct stat`, the order of its values, and the mask of its inodes.

    fusepy has the layout of each system and machine in `c_stat`.
    """
    order: list[int] = []
    format_, at, ino_mask = "=", 0, 0
    fields = sorted((getattr(fuse.c_stat, name).offset, name) for name, _ in fuse.c_stat._fields_)
    for offset, name in fields:
        if name not in _FIELDS:
            continue
        indices = _FIELDS[name]
        size = getattr(fuse.c_stat, name).size // len(indices)
        is_signed = name.endswith("spec") or name in ("st_size", "st_blocks")
        code = {2: "h", 4: "i", 8: "q"}[size]
        format_ += f"{offset - at}x{len(indices)}{code if is_signed else code.upper()}"
        order += indices
        at = offset + size * len(indices)
        if name == "st_ino":
            ino_mask = (1 << 8 * size) - 1
    format_ += f"{ctypes.sizeof(fuse.c_stat) - at}x"
    return Struct(format_), itemgetter(*order), ino_mask


_STAT, _IN_ORDER, _INO_MASK = _stat_layout()


def pack_stat(attrs: FileAttributes) -> bytes:
    """Return *attrs* as a `struct stat` of this system."""
    mode, ino, size, mtime_ns, ctime_ns, blocks, nlink, uid, gid, block_size, _ = attrs
    values = (
        *(mode, ino & _INO_MASK, size, blocks, nlink, uid, gid, block_size),
        *(*divmod(mtime_ns, 10**9), *divmod(ctime_ns, 10**9)),
    )
    return _STAT.pack(*_IN_ORDER(values))


class OperationsTable(ctypes.Structure):
    """`struct fuse_operations` of libfuse 2.9 (fuse.h): fusepy's, and the members after those."""

    _fields_ = (
        *fuse.fuse_operations._fields_,
        ("poll", ctypes.c_void_p),
        ("write_buf", ctypes.c_void_p),
        ("read_buf", ctypes.c_void_p),
        ("flock", ctypes.c_void_p),
        (
            "fallocate",
            ctypes.CFUNCTYPE(
                ctypes.c_int,
                ctypes.c_char_p,
                ctypes.c_int,
                *(fuse.c_off_t, fuse.c_off_t),
                ctypes.POINTER(fuse.fuse_file_info),
            ),
        ),
    )


class FuseLoop(fuse.FUSE):  # type: ignore[misc]
    """Mounts, and serves *operations* until the mount is gone; the constructor returns then.

    libfuse calls the methods in threads of its own. An exception that ends the mount is left in
    `operations.failure`.

    Raises:
        RuntimeError: libfuse could not mount, or its loop failed; it has printed why.
    """

    def __init__(self, operations: FusepyOperations, mountpoint: str, **options: Any) -> None:
        path_codec.register()
        if sys.platform == "linux":  # the table continues in another way in macFUSE
            fuse.fuse_operations = OperationsTable
        super().__init__(operations, mountpoint, raw_fi=True, encoding=path_codec.NAME, **options)

    def _wrapper(self, func: Callable[..., Any], *args: Any) -> int:
        """Call *func* and return its result or a negative errno: no exception leaves it."""
        keep_thread_state()
        is_init = func.__name__ == "init"
        try:
            return func(*args) or 0
        except Exception as exc:
            if is_init:
                return self._end(exc)
            number = exc.errno if isinstance(exc, OSError) else None
            if isinstance(number, int) and number > 0:
                return -number
            log.error("%s: unexpected error", func.__name__, exc_info=True)
            return -errno.EIO
        except BaseException as exc:
            return self._end(exc)

    def _end(self, failure: BaseException) -> int:
        """Have libfuse's loop end because of *failure*."""
        log.critical("the mount ends", exc_info=failure)
        if self.operations.failure is None:
            self.operations.failure = failure
        fuse.fuse_exit()
        return -errno.EIO

    def getattr(self, path: bytes, buf: Any) -> int:
        if len(path) - path.rfind(b"/") - 1 > NAME_MAX:
            return -errno.ENAMETOOLONG  # Linux itself lets FUSE have names of 1024 bytes
        stat = pack_stat(self.operations("getattr", decode_name(path)))
        ctypes.memmove(buf, stat, len(stat))
        return 0

    def fgetattr(self, path: bytes, buf: Any, fip: Any) -> int:
        return self.getattr(path, buf)

    def readdir(self, path: bytes, buf: Any, filler: Any, offset: int, fip: Any) -> int:
        stat = fuse.c_stat()
        pointer = ctypes.pointer(stat)
        for name, mode, ino in self.operations("readdir", decode_name(path), 0):
            stat.st_mode, stat.st_ino = mode, ino  # libfuse uses the type and the inode alone
            if filler(buf, encode_name(name), pointer, 0):
                break
        return 0

    def read(self, path: bytes, buf: Any, size: int, offset: int, fip: Any) -> int:
        piece = self.operations("read", decode_name(path), size, offset, fip.contents)
        piece = addressable(piece)
        ctypes.memmove(buf, address_of(piece), len(piece))
        return len(piece)

    def fallocate(self, path: bytes, mode: int, offset: int, length: int, fip: Any) -> int:
        return int(self.operations("fallocate", decode_name(path)))

"""`Session`: fusepy 3.0.1 with the corrections that a production mount needs.

Each is measured in the project's notes on fusepy: its error boundary answers garbage to foreign
exceptions, it makes a new thread state for every callback, one name that is not UTF-8 fails a
whole listing, and attributes go through a dict and `setattr`.
"""

import codecs
import ctypes
import errno
import logging
import struct
import threading
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final

import fuse

from taskfs.nodes import Attrs, Entry
from taskfs.operations import TaskOperations

log = logging.getLogger(__name__)

ENCODING: Final = "taskfs-names"


def _find_codec(name: str) -> codecs.CodecInfo | None:
    """UTF-8 whose invalid bytes survive, under a name that can be passed as an encoding."""
    if name.replace("_", "-") != ENCODING:
        return None
    utf8 = codecs.lookup("utf-8")
    return codecs.CodecInfo(
        name=ENCODING,
        encode=lambda text, errors="strict": utf8.encode(text, "surrogateescape"),
        decode=lambda text, errors="strict": utf8.decode(text, "surrogateescape"),
    )


codecs.register(_find_codec)

_STAT_FIELDS: Final = ("ino", "nlink", "mode", "uid", "gid", "size", "blksize", "blocks")
_TIME_FIELDS: Final = ("atimespec", "mtimespec", "ctimespec")
_CODES: Final = {4: "I", 8: "q"}


def _stat_packer() -> Callable[[tuple[int, ...]], bytes]:
    """Return what makes a `struct stat` of the values of `_STAT_FIELDS` and then of the seconds and
    nanoseconds of `_TIME_FIELDS`: where each lies differs between machines."""
    fields = [getattr(fuse.c_stat, f"st_{name}") for name in _STAT_FIELDS]
    places = [(field.offset, field.size) for field in fields]
    for name in _TIME_FIELDS:
        field = getattr(fuse.c_stat, f"st_{name}")
        places += [
            (field.offset, field.size // 2),
            (field.offset + field.size // 2, field.size // 2),
        ]
    order = sorted(range(len(places)), key=lambda number: places[number])
    code, at = "=", 0
    for number in order:
        offset, size = places[number]
        code += f"{offset - at}x{_CODES[size]}"
        at = offset + size
    layout = struct.Struct(f"{code}{ctypes.sizeof(fuse.c_stat) - at}x")
    in_order = itemgetter(*order)
    return lambda values: layout.pack(*in_order(values))


_pack_stat: Final = _stat_packer()


# It only looks at its thread's own memory: to give the interpreter's lock up would take longer.
_fuse_interrupted: Final = ctypes.PyDLL(fuse._libfuse._name).fuse_interrupted


def fuse_interrupted() -> bool:
    """Whether the request that the calling thread serves was interrupted; False elsewhere."""
    return bool(_fuse_interrupted())


class Session(fuse.FUSE):  # type: ignore[misc]  # fusepy is untyped
    """One mount from its start to its end; the constructor returns when it is unmounted.

    Raises:
        whatever `init` failed with, or a BaseException that a callback met.
        RuntimeError: libfuse could not mount.
    """

    def __init__(
        self,
        operations: TaskOperations,
        mountpoint: str,
        *,
        uid: int,
        gid: int,
        umask: int,
        **options: Any,
    ) -> None:
        self._uid = uid
        self._gid = gid
        self._umask = umask
        self._kept = threading.local()
        self._failure: BaseException | None = None
        # What the kernel asks the parent class for by these names must find ours.
        super().__init__(operations, mountpoint, raw_fi=True, encoding=ENCODING, **options)

    @property
    def failure(self) -> BaseException | None:
        """What ended the mount, if it did not end by being unmounted."""
        return self._failure

    def _wrapper(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
        """Call one callback: the boundary behind which nothing may be raised."""
        if not hasattr(self._kept, "state"):
            # Keeps the native thread's state, and so its thread-locals, for its whole life.
            self._kept.state = ctypes.pythonapi.PyGILState_Ensure()
        try:
            return func(*args, **kwargs) or 0
        except OSError as exc:
            if isinstance(exc.errno, int) and exc.errno > 0:
                return -exc.errno
            log.error("%s: an OSError without an errno", func.__name__, exc_info=True)
            return -errno.EIO
        except Exception as exc:
            log.error("%s: unexpected error", func.__name__, exc_info=True)
            if func.__name__ == "init":
                self._end(exc)
            return -errno.EIO
        except BaseException as exc:
            log.critical("%s: the mount ends", func.__name__, exc_info=True)
            self._end(exc)
            return -errno.EIO

    def _end(self, exc: BaseException) -> None:
        self._failure = exc
        fuse.fuse_exit()

    def init(self, conn: Any) -> Any:
        # An OSError would look like an answer to a request, and the mount would go on.
        try:
            return super().init(conn)
        except Exception as exc:
            self._end(exc)
            return 0

    def fgetattr(self, path: bytes, buf: Any, fip: Any) -> int:
        attrs: Attrs = self.operations("getattr", path.decode("utf-8", "surrogateescape"))
        mode, ino, size, mtime_ns, ctime_ns, blocks = attrs
        if mode & 0o170000 != 0o120000:
            mode &= ~self._umask
        mtime_s, mtime_ns = divmod(mtime_ns, 10**9)
        ctime_s, ctime_ns = divmod(ctime_ns, 10**9)
        packed = _pack_stat(
            (
                *(ino, 1, mode, self._uid, self._gid, size, 4096, blocks),
                *(mtime_s, mtime_ns, mtime_s, mtime_ns, ctime_s, ctime_ns),
            )
        )
        ctypes.memmove(buf, packed, len(packed))
        return 0

    def getattr(self, path: bytes, buf: Any) -> int:
        return self.fgetattr(path, buf, None)

    def open(self, path: bytes, fip: Any) -> int:
        return int(self.operations("open", path.decode("utf-8", "surrogateescape"), fip.contents))

    def release(self, path: bytes, fip: Any) -> int:
        return int(self.operations("release", path, fip.contents))

    def read(self, path: bytes, buf: Any, size: int, offset: int, fip: Any) -> int:
        piece = self.operations("read", path, size, offset, fip.contents)
        room = (ctypes.c_char * size).from_address(ctypes.addressof(buf.contents))
        # Not memmove: to give the interpreter's lock up and get it back takes longer than copying.
        memoryview(room).cast("B")[: len(piece)] = piece
        return len(piece)

    def readdir(self, path: bytes, buf: Any, filler: Any, offset: int, fip: Any) -> int:
        st = fuse.c_stat()
        reference = ctypes.byref(st)
        for name in (b".", b".."):
            filler(buf, name, None, 0)
        entry: Entry
        for entry in self.operations("readdir", path.decode("utf-8", "surrogateescape"), 0):
            st.st_mode = entry.mode
            st.st_ino = entry.ino
            if filler(buf, entry.name.encode("utf-8", "surrogateescape"), reference, 0):
                break
        return 0

"""The protocol of /dev/fuse: numbers and layouts of linux/fuse.h.

This is version 7.31 (Linux 5.4); an older kernel does not send requests that it does not know.
Linux 4.18 is the oldest that was tested. All integers are in the machine's byte order, and the
structures have no implicit padding.
"""

import mmap
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

from taskfs.fuse.attributes import FileAttributes
from taskfs.tree.lifetime import Lifetime

MAJOR: Final = 7
MINOR: Final = 31
OLDEST_MINOR: Final = 23  # Linux 3.15: older ones are refused, those up to 4.17 were not tested
ROOT_ID: Final = 1
PAGE: Final = mmap.PAGESIZE  # the kernel counts in its own pages, 64 KiB on some machines
NAME_MAX: Final = 255  # bytes of a name, as statfs(2) reports them


class Opcode(IntEnum):
    """The kinds of requests (`enum fuse_opcode`)."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    CREATE = 35
    INTERRUPT = 36
    IOCTL = 39
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45


class Feature(IntFlag):
    """Features that are on if both sides offer them (`FUSE_…` flags of INIT)."""

    ASYNC_READ = 1 << 0
    BIG_WRITES = 1 << 5
    DO_READDIRPLUS = 1 << 13
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22


class OpenFlag(IntFlag):
    """How the kernel may cache an open file (`FOPEN_…`)."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3  # Linux 4.20; older kernels ignore it


# enum fuse_notify_code
NOTIFY_INVAL_INODE: Final = 2
NOTIFY_INVAL_ENTRY: Final = 3
NOTIFY_STORE: Final = 4

HEADER_IN: Final = Struct("=IIQQIIII")  # fuse_in_header: length, opcode, unique, nodeid, …
HEADER_OUT: Final = Struct("=IiQ")  # fuse_out_header: length, negative errno, unique
INIT_IN: Final = Struct("=IIII")  # the head of fuse_init_in: major, minor, readahead, flags
INIT_OUT: Final = Struct("=IIIIHHIIHH32x")  # fuse_init_out
FORGET_IN: Final = Struct("=Q")
BATCH_FORGET_IN: Final = Struct("=II")
FORGET_ONE: Final = Struct("=QQ")
SETATTR_IN: Final = Struct("=II")  # the head of fuse_setattr_in: which attributes
OPEN_IN: Final = Struct("=II")
OPEN_OUT: Final = Struct("=QII")
READ_IN: Final = Struct("=QQI")  # the head of fuse_read_in: handle, offset, size
RELEASE_IN: Final = Struct("=Q")
WRITE_IN: Final = Struct("=QQIIQII")
WRITE_OUT: Final = Struct("=II")
SETXATTR_IN: Final = Struct("=II")
GETXATTR: Final = Struct("=II")  # fuse_getxattr_in and _out: size, padding
INTERRUPT_IN: Final = Struct("=Q")
STATFS_OUT: Final = Struct("=QQQQQIIII24x")  # fuse_statfs_out
INVAL_INODE_OUT: Final = Struct("=Qqq")  # nodeid; first byte, negative for none; bytes, 0 for all
INVAL_ENTRY_OUT: Final = Struct("=QII")  # nodeid of the directory, length of the name
NOTIFY_STORE_OUT: Final = Struct("=QQII")  # fuse_notify_store_out: nodeid, offset, size

# fuse_attr: ino, size, blocks, three times in seconds, in nanoseconds, mode, nlink, uid, gid, rdev,
# blksize, flags.
_ATTR: Final = "QQQqqqIIIIIIIIII"
_DIRENT: Final = "QQII"  # fuse_dirent: ino, offset of the next entry, length of the name, type
_ATTR_OUT: Final = Struct(f"=QII{_ATTR}")
_ENTRY_OUT: Final = Struct(f"=QQQQII{_ATTR}")
_DIRENT_HEAD: Final = Struct(f"={_DIRENT}")
_DIRENTPLUS_HEAD: Final = Struct(f"=QQQQII{_ATTR}{_DIRENT}")
_NO_ATTRS: Final = (0,) * 22
# Names are padded to the next multiple of 8 bytes (FUSE_DIRENT_ALIGN).
_PADDING: Final = tuple(bytes(-length % 8) for length in range(8))


# Seconds. Names of a running task's files come and go, and its machine gives no notice.
VOLATILE_NAME_S: Final = 1.0

# Seconds for which the kernel may keep what belongs to one version of an archive: the time of
# `Lifetime.VERSION`. Any long time will do, because the kernel is notified of a new version.
VERSION_LIFETIME_S: Final = 24 * 3600

# Lifetimes of a name and of its attributes: seconds of each, then nanoseconds of each.
Valid = tuple[int, int, int, int]


def _seconds(lifetime_s: float) -> tuple[int, int]:
    """Return a time in seconds and nanoseconds."""
    return divmod(round(lifetime_s * 10**9), 10**9)


def name_of(body: memoryview) -> bytes:
    """Return the first name of a request's body, up to its NUL."""
    return bytes(body).partition(b"\0")[0]


class Packer:
    """Packs attributes and directory entries. Immutable.

    The kernel keeps names and attributes for *timeout_s*, or until a new version is announced. It
    never keeps volatile attributes, and their names for `VOLATILE_NAME_S` at most.
    """

    def __init__(self, timeout_s: float) -> None:
        name_s, name_ns = _seconds(min(timeout_s, VOLATILE_NAME_S))
        seconds, rest = _seconds(timeout_s)
        self._none: Valid = name_s, 0, name_ns, 0
        self._timeout: Valid = seconds, seconds, rest, rest
        self._version: Valid = VERSION_LIFETIME_S, VERSION_LIFETIME_S, 0, 0

    def valid(self, lifetime: Lifetime) -> Valid:
        """Return the lifetimes of a name and of its attributes."""
        if lifetime is Lifetime.VERSION:
            return self._version
        return self._timeout if lifetime is Lifetime.TIMEOUT else self._none

    def attributes(self, attrs: FileAttributes) -> bytes:
        """Return a `fuse_attr_out`."""
        _, seconds, _, nanoseconds = self.valid(attrs.lifetime)
        return _ATTR_OUT.pack(seconds, nanoseconds, 0, *self._attr(attrs))

    def entry(self, nodeid: int, attrs: FileAttributes) -> bytes:
        """Return a `fuse_entry_out`, the answer to a lookup."""
        return _ENTRY_OUT.pack(nodeid, 0, *self.valid(attrs.lifetime), *self._attr(attrs))

    @staticmethod
    def dirent_head(plus: bool) -> int:
        """Return the length of a `fuse_dirent` or `fuse_direntplus` without the name."""
        return _DIRENTPLUS_HEAD.size if plus else _DIRENT_HEAD.size

    @staticmethod
    def dirent(name: bytes, ino: int, mode: int, offset: int) -> bytes:
        """Return a `fuse_dirent`; the next entry is at *offset*."""
        head = _DIRENT_HEAD.pack(ino, offset, len(name), mode >> 12 & 15)
        return head + name + _PADDING[len(name) % 8]

    def direntplus(
        self,
        name: bytes,
        ino: int,
        mode: int,
        offset: int,
        nodeid: int,
        attrs: FileAttributes | None,
        valid: Valid,
    ) -> bytes:
        """Return a `fuse_direntplus`; without *attrs* the kernel asks for them when needed."""
        length, kind = len(name), mode >> 12 & 15
        shown = _NO_ATTRS if attrs is None else (nodeid, 0, *valid, *self._attr(attrs))
        head = _DIRENTPLUS_HEAD.pack(*shown, ino, offset, length, kind)
        return head + name + _PADDING[length % 8]

    @staticmethod
    def _attr(attrs: FileAttributes) -> tuple[int, ...]:
        mode, ino, size, mtime_ns, ctime_ns, blocks, nlink, uid, gid, block_size, _ = attrs
        mtime_s, mtime_ns = divmod(mtime_ns, 10**9)
        ctime_s, ctime_ns = divmod(ctime_ns, 10**9)
        times = mtime_s, mtime_s, ctime_s, mtime_ns, mtime_ns, ctime_ns
        return ino, size, blocks, *times, mode, nlink, uid, gid, 0, block_size, 0

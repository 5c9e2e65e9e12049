"""`Dispatch`: turns one request of the kernel into the parts of its answer.

It reads no device and starts no thread. `fuse.operations` serves the request by path, and
`protocol` knows the layouts.
"""

import errno
import stat
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from taskfs.fuse.attributes import DepartedAttributes, FileAttributes
from taskfs.fuse.kernel.node_table import NodeTable
from taskfs.fuse.kernel.open_directories import OpenDirectories
from taskfs.fuse.kernel.page_push import PagePush
from taskfs.fuse.kernel.protocol import (
    BATCH_FORGET_IN,
    FORGET_IN,
    FORGET_ONE,
    GETXATTR,
    NAME_MAX,
    OPEN_IN,
    OPEN_OUT,
    READ_IN,
    RELEASE_IN,
    SETATTR_IN,
    SETXATTR_IN,
    STATFS_OUT,
    WRITE_IN,
    WRITE_OUT,
    Opcode,
    OpenFlag,
    Packer,
    name_of,
)
from taskfs.fuse.operations import OpenResult, StatFs, TaskOperations
from taskfs.fuse.path_codec import decode_name, encode_name
from taskfs.support.buffers import Buffer
from taskfs.support.wait_hook import announce_wait
from taskfs.tree.handles import PushableHandle
from taskfs.tree.page_cache import PageCacheMode

Answer = Sequence[Buffer]
NO_ANSWER: Final[Answer] = ()  # FORGET has none
EMPTY: Final[Answer] = (b"",)
# Bytes. A thread hands over the lead before it answers a read that is longer than this, because the
# kernel takes long to copy the answer.
LONG_READ: Final = 64 << 10

_OPEN_FLAGS: Final = {
    PageCacheMode.KEEP: int(OpenFlag.KEEP_CACHE),
    PageCacheMode.DROP: 0,
    PageCacheMode.DIRECT: int(OpenFlag.DIRECT_IO),
}
# The operation of a SETATTR, by the bits of its field `valid` (FATTR_…). Other bits are times.
_CHANGES: Final = ((1 << 3, "truncate"), (1 << 0, "chmod"), (1 << 1 | 1 << 2, "chown"))
_REFUSED: Final = {
    Opcode.CREATE: "create",
    Opcode.FALLOCATE: "fallocate",
    Opcode.LINK: "link",
    Opcode.RENAME: "rename",
    Opcode.RENAME2: "rename",
}
# Refused too, unless the event helper sends them to announce a change: see `event_operations`.
_NAMED: Final = (Opcode.MKDIR, Opcode.MKNOD, Opcode.RMDIR, Opcode.SYMLINK, Opcode.UNLINK)
_HEAD_SIZES: Final = {Opcode.MKDIR: 8, Opcode.MKNOD: 16}  # bytes before the name in a request


class Dispatch:
    """Answers requests.

    Safe for concurrent use: the tables of nodes and pushes have locks of their own, and the others
    change by single operations of a dict.

    *write_pages* puts bytes into the kernel's page cache of a file. It gets a nodeid, an offset and
    the bytes: those after the bytes that were read last, or a whole file that is opened.
    """

    def __init__(
        self,
        operations: TaskOperations,
        packer: Packer,
        write_pages: Callable[[int, int, Buffer], None],
        is_name_reader: Callable[[], bool] = lambda: False,
    ) -> None:
        self._operations = operations
        self._packer = packer
        self.nodes = NodeTable()
        self._directories = OpenDirectories(operations, packer, self.nodes, is_name_reader)
        self._pushes = PagePush(write_pages)
        self._pushable: dict[int, PushableHandle] = {}  # open files by number
        self._methods: dict[int, Callable[[int, memoryview], Answer]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.FORGET: self._forget,
            Opcode.BATCH_FORGET: self._forget_many,
            Opcode.GETATTR: self._getattr,
            Opcode.SETATTR: self._setattr,
            Opcode.READLINK: self._readlink,
            Opcode.OPEN: self._open,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.RELEASE: self._release,
            Opcode.STATFS: self._statfs,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.READDIRPLUS: self._readdirplus,
            Opcode.RELEASEDIR: self._releasedir,
            Opcode.SETXATTR: self._setxattr,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.REMOVEXATTR: self._removexattr,
            Opcode.IOCTL: self._ioctl,
        }
        for opcode, name in _REFUSED.items():
            self._methods[opcode] = self._refusing(name)
        for opcode in _NAMED:
            self._methods[opcode] = partial(self._change_name, opcode)

    def answer(self, opcode: int, nodeid: int, body: memoryview) -> Answer:
        """Return the parts of the answer to one request; *body* is valid only during the call.

        Raises:
            OSError: the request failed. After ENOSYS the kernel never sends this opcode again.
        """
        method = self._methods.get(opcode)
        if method is None:
            raise OSError(errno.ENOSYS, "")
        return method(nodeid, body)

    def _path(self, nodeid: int) -> str:
        return self.nodes.path(nodeid)

    def _lookup(self, nodeid: int, body: memoryview) -> Answer:
        raw = name_of(body)
        if len(raw) > NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, "")
        attrs = self._operations("getattr", f"{self._path(nodeid)}/{decode_name(raw)}")
        # The event helper is about to remove a departed name. The added NUL makes a key that no
        # real name has, so the name gets a new node id.
        known = b"%b\0" % raw if isinstance(attrs, DepartedAttributes) else raw
        return (self._entry(nodeid, known, attrs),)

    def _entry(self, parent: int, name: bytes, attrs: FileAttributes) -> bytes:
        """Return the answer to a lookup of *name*, and count it."""
        is_directory = stat.S_ISDIR(attrs.mode)
        nodeid = self.nodes.add_lookup(parent, name, is_directory=is_directory)
        return self._packer.entry(nodeid, attrs)

    def _forget(self, nodeid: int, body: memoryview) -> Answer:
        self._forget_one(nodeid, *FORGET_IN.unpack_from(body))
        return NO_ANSWER

    def _forget_one(self, nodeid: int, count: int) -> None:
        self._directories.forget(nodeid)
        self.nodes.forget(nodeid, count)

    def _forget_many(self, nodeid: int, body: memoryview) -> Answer:
        count, _ = BATCH_FORGET_IN.unpack_from(body)
        start = BATCH_FORGET_IN.size
        stop = start + count * FORGET_ONE.size
        for forgotten, times in FORGET_ONE.iter_unpack(body[start:stop]):
            self._forget_one(forgotten, times)
        return NO_ANSWER

    def _getattr(self, nodeid: int, body: memoryview) -> Answer:
        attrs: FileAttributes = self._operations("getattr", self._path(nodeid))
        if stat.S_ISDIR(attrs.mode) != self.nodes.is_directory(nodeid):
            # The path has another type in a new version of the archive. After ESTALE the kernel
            # looks its names up again.
            raise OSError(errno.ESTALE, "")
        return (self._packer.attributes(attrs),)

    def _setattr(self, nodeid: int, body: memoryview) -> Answer:
        valid, _ = SETATTR_IN.unpack_from(body)
        name = next((name for bits, name in _CHANGES if valid & bits), "utimens")
        self._operations(name, self._path(nodeid))
        return self._getattr(nodeid, body)

    def _readlink(self, nodeid: int, body: memoryview) -> Answer:
        return (encode_name(self._operations("readlink", self._path(nodeid))),)

    def _open(self, nodeid: int, body: memoryview) -> Answer:
        flags, _ = OPEN_IN.unpack_from(body)
        path = self._path(nodeid)
        opened: OpenResult = self._operations("open", path, flags)
        if opened.pushable is not None:
            self._pushable[opened.fh] = opened.pushable
            was_closed = self._pushes.note_open(nodeid)
            # In any other mode the kernel drops the pages of the file as it opens.
            if was_closed and opened.mode is PageCacheMode.KEEP:
                self._pushes.push_at_open(nodeid, opened.pushable)
        return (OPEN_OUT.pack(opened.fh, _OPEN_FLAGS[opened.mode], 0),)

    def _read(self, nodeid: int, body: memoryview) -> Answer:
        fh, offset, size = READ_IN.unpack_from(body)
        if size > LONG_READ:
            announce_wait()
        path = self._path(nodeid)
        pushable = self._pushable.get(fh)
        if pushable is None:
            return (self._operations("read", path, size, offset, fh),)
        with self._pushes.read(nodeid, offset, offset + size):
            piece = self._operations("read", path, size, offset, fh)
            self._pushes.push_after_read(nodeid, pushable)
        return (piece,)

    def _write(self, nodeid: int, body: memoryview) -> Answer:
        fh, offset, size, *_ = WRITE_IN.unpack_from(body)
        piece = bytes(body[WRITE_IN.size : WRITE_IN.size + size])
        count = self._operations("write", self._path(nodeid), piece, offset, fh)
        return (WRITE_OUT.pack(count, 0),)

    def _release(self, nodeid: int, body: memoryview) -> Answer:
        (fh,) = RELEASE_IN.unpack_from(body)
        if self._pushable.pop(fh, None) is not None:
            self._pushes.note_release(nodeid)
        self._operations("release", "", fh)  # without the path, which may no longer exist
        return EMPTY

    def _statfs(self, nodeid: int, body: memoryview) -> Answer:
        figures: StatFs = self._operations("statfs", "")
        free = figures.free, figures.free
        counts = figures.blocks, *free, figures.files, figures.free_files
        return (STATFS_OUT.pack(*counts, figures.unit, figures.name_max, figures.unit, 0),)

    def _opendir(self, nodeid: int, body: memoryview) -> Answer:
        return (self._directories.open(nodeid),)

    def _releasedir(self, nodeid: int, body: memoryview) -> Answer:
        self._directories.release(nodeid, body)
        return EMPTY

    def _readdir(self, nodeid: int, body: memoryview) -> Answer:
        return (self._directories.list(nodeid, body, plus=False),)

    def _readdirplus(self, nodeid: int, body: memoryview) -> Answer:
        return (self._directories.list(nodeid, body, plus=True),)

    def _setxattr(self, nodeid: int, body: memoryview) -> Answer:
        size, flags = SETXATTR_IN.unpack_from(body)
        rest = bytes(body[SETXATTR_IN.size :])
        name, _, value = rest.partition(b"\0")
        self._operations("setxattr", self._path(nodeid), decode_name(name), value[:size], flags)
        return EMPTY

    def _getxattr(self, nodeid: int, body: memoryview) -> Answer:
        size, _ = GETXATTR.unpack_from(body)
        name = decode_name(name_of(body[GETXATTR.size :]))
        return _sized(size, self._operations("getxattr", self._path(nodeid), name))

    def _listxattr(self, nodeid: int, body: memoryview) -> Answer:
        size, _ = GETXATTR.unpack_from(body)
        names = self._operations("listxattr", self._path(nodeid))
        return _sized(size, b"".join(encode_name(name) + b"\0" for name in names))

    def _removexattr(self, nodeid: int, body: memoryview) -> Answer:
        self._operations("removexattr", self._path(nodeid), decode_name(name_of(body)))
        return EMPTY

    def _ioctl(self, nodeid: int, body: memoryview) -> Answer:
        raise OSError(errno.ENOTTY, "")  # Python's `open` checks whether the file is a terminal

    def _change_name(self, opcode: Opcode, nodeid: int, body: memoryview) -> Answer:
        name = name_of(body[_HEAD_SIZES.get(opcode, 0) :])
        path = f"{self._path(nodeid)}/{decode_name(name)}"
        attrs = self._operations(opcode.name.lower(), path)
        if attrs is None:
            return EMPTY
        return (self._entry(nodeid, name, attrs),)

    def _refusing(self, name: str) -> Callable[[int, memoryview], Answer]:
        def refuse(nodeid: int, body: memoryview) -> Answer:
            self._operations(name, self._path(nodeid))
            raise OSError(errno.EROFS, "")

        return refuse


def _sized(size: int, value: bytes) -> Answer:
    """Return an extended attribute, or only its length if *size* is 0."""
    if not size:
        return (GETXATTR.pack(len(value), 0),)
    if len(value) > size:
        raise OSError(errno.ERANGE, "")
    return (value,)

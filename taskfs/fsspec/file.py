"""`TaskFile`: an open file of the fsspec file system, like Python's own binary files."""

import errno
import io
import os
from typing import Any, Final, Protocol

from taskfs.fsspec.shared_core import SharedCore, as_oserror
from taskfs.model import ObjectVersion
from taskfs.support.buffers import Buffer
from taskfs.tree.handles import Handle

BUFFER_BYTES: Final = 128 << 10  # the kernel's largest read-ahead on a mount
# Bytes per read of a whole file: fewer and larger reads than through the buffer.
READALL_BYTES: Final = 1 << 20


class Opener(Protocol):
    """The part of the file system that an open file uses."""

    def open_handle(self, path: str) -> tuple[Handle, SharedCore]: ...
    def info(self, path: str) -> dict[str, Any]: ...
    def unstrip_protocol(self, name: str) -> str: ...


class _RawFile(io.RawIOBase):
    """The bytes of one version of a file. A forked process opens the file again on its first read.

    Not safe for concurrent use: the lock of the BufferedReader around it guards it.
    """

    mode = "rb"

    def __init__(self, fs: Opener, path: str) -> None:
        super().__init__()
        self.name = path
        self._fs = fs
        self._opened: tuple[Handle, SharedCore] | None = fs.open_handle(path)
        self.size = self._opened[0].size
        self.version = self._opened[0].version
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._require_open()
        if whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
            raise ValueError(f"whence cannot be {whence}")
        target = (0, self._offset, self.size)[whence] + offset
        if target < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.name)
        self._offset = target
        return target

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        chunk = self._read(len(view))
        view[: len(chunk)] = chunk
        return len(chunk)

    def readall(self) -> bytes:
        chunks = []
        while chunk := self._read(READALL_BYTES):
            chunks.append(chunk)
        return b"".join(chunks)

    def _read(self, size: int) -> Buffer:
        handle, shared = self._require_open()
        if not shared.is_usable:
            handle, shared = self._fs.open_handle(self.name)
            try:
                self.check_version(handle.version)
            except OSError:
                handle.close()
                raise
            self._opened = handle, shared
        with as_oserror(self.name):
            chunk = handle.read_at(self._offset, size)
        self._offset += len(chunk)
        return chunk

    def check_version(self, version: ObjectVersion | None) -> None:
        """Raise ESTALE unless *version* is the one that was opened."""
        if version != self.version:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), self.name)

    def _require_open(self) -> tuple[Handle, SharedCore]:
        if self._opened is None:
            raise ValueError("I/O operation on closed file")
        return self._opened

    def close(self) -> None:
        opened, self._opened = self._opened, None
        super().close()
        if opened is not None and opened[1].is_usable:
            opened[0].close()

    def __del__(self) -> None:
        opened = getattr(self, "_opened", None)
        if opened is not None and opened[1].is_usable:
            # To close the handle takes locks, which this thread may hold already.
            opened[1].abandoned_handles.append(opened[0])


class TaskFile(io.BufferedReader):
    """An open file: buffered, seekable, and pickled as its path, version and position.

    `size` is the size of the version that was opened. Once that version is replaced, reads fail
    with ESTALE.
    """

    raw: _RawFile

    def __init__(self, fs: Opener, path: str, block_size: int | None = None) -> None:
        super().__init__(_RawFile(fs, path), block_size or BUFFER_BYTES)
        self.fs = fs
        self.path = path
        self.blocksize = block_size or BUFFER_BYTES

    @property
    def size(self) -> int:
        """The file's length in bytes."""
        return self.raw.size

    @property
    def details(self) -> dict[str, Any]:
        """The current `info` of the path."""
        return self.fs.info(self.path)

    @property
    def full_name(self) -> str:
        """The URL."""
        return self.fs.unstrip_protocol(self.path)

    def __reduce__(self) -> Any:
        position = 0 if self.closed else self.tell()
        return _reopen, (self.fs, self.path, self.blocksize, self.raw.version, position)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()  # that of BufferedReader refuses to pickle

    def __del__(self) -> None:
        pass  # that of BufferedReader would close the file, and so take locks


def _reopen(
    fs: Opener, path: str, block_size: int | None, version: ObjectVersion | None, position: int
) -> TaskFile:
    file = TaskFile(fs, path, block_size)
    file.raw.check_version(version)
    file.seek(position)
    return file

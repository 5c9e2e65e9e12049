"""`TaskFile`: an open file of the fsspec file system, as Python's own file objects are."""

import errno
import io
import os
from typing import Any, Final, Protocol

from taskfs.fsspec.shared_core import SharedCore, as_oserror
from taskfs.model import ObjectVersion
from taskfs.support.buffers import Buffer
from taskfs.tree.handles import Handle

BUFFER: Final = 128 << 10


class Opener(Protocol):
    """The file system, as far as a file needs it."""

    def open_handle(self, path: str) -> tuple[Handle, SharedCore]: ...
    def info(self, path: str) -> dict[str, Any]: ...
    def unstrip_protocol(self, name: str) -> str: ...


class _RawFile(io.RawIOBase):
    """The bytes of one version of a file. Not safe for concurrent use: its buffer's lock guards it.

    Whoever reads it in a forked process has it opened again there.
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
        self._check_open()
        if whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
            raise ValueError(f"whence cannot be {whence}")
        target = (0, self._offset, self.size)[whence] + offset
        if target < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.name)
        self._offset = target
        return target

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        piece = self._read(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def readall(self) -> bytes:
        pieces = []
        while piece := self._read(8 * BUFFER):
            pieces.append(piece)
        return b"".join(pieces)

    def _read(self, size: int) -> Buffer:
        handle, shared = self._check_open()
        if not shared.is_here:
            handle, _ = self._opened = self._fs.open_handle(self.name)
            self.check_version(handle.version)
        with as_oserror(self.name):
            piece = handle.read_at(self._offset, size)
        self._offset += len(piece)
        return piece

    def check_version(self, version: ObjectVersion | None) -> None:
        """Raise ESTALE if the remote object that the file was opened from is another one now."""
        if version != self.version:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), self.name)

    def _check_open(self) -> tuple[Handle, SharedCore]:
        if self._opened is None:
            raise ValueError("I/O operation on closed file")
        return self._opened

    def close(self) -> None:
        opened, self._opened = self._opened, None
        super().close()
        if opened is not None and opened[1].is_here:
            opened[0].close()

    def __del__(self) -> None:
        opened = getattr(self, "_opened", None)
        if opened is not None and opened[1].is_here:
            opened[1].left.append(opened[0])  # no lock may be taken here


class TaskFile(io.BufferedReader):
    """An open file: buffered, seekable, and pickled as its path, its version and its position.

    `size` is that of the version that was opened; reads of a replaced one fail with ESTALE.
    """

    raw: _RawFile

    def __init__(self, fs: Opener, path: str, block_size: int | None = None) -> None:
        super().__init__(_RawFile(fs, path), block_size or BUFFER)
        self.fs = fs
        self.path = path
        self.blocksize = block_size or BUFFER

    @property
    def size(self) -> int:
        """The file's length in bytes."""
        return self.raw.size

    @property
    def details(self) -> dict[str, Any]:
        """What the file system tells of the path now."""
        return self.fs.info(self.path)

    @property
    def full_name(self) -> str:
        """The URL."""
        return self.fs.unstrip_protocol(self.path)

    def __reduce__(self) -> Any:
        position = 0 if self.closed else self.tell()
        return _reopen, (self.fs, self.path, self.blocksize, self.raw.version, position)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__reduce__()  # the base class's own says that it cannot be pickled

    def __del__(self) -> None:
        pass  # the raw file knows what to do


def _reopen(
    fs: Opener, path: str, block_size: int | None, version: ObjectVersion | None, position: int
) -> TaskFile:
    file = TaskFile(fs, path, block_size)
    file.raw.check_version(version)
    file.seek(position)
    return file

"""Sealed files: large content that is written once, checked when it is opened, and mapped.

A sealed file ends with a seal: its kind and the CRC-32 of its name and content. A file that is cut
short, damaged, of another kind or under another's name is a miss. Content up to `IN_MEMORY` bytes
is kept in memory, because each mapped file takes a file descriptor.
"""

import contextlib
import mmap
import os
import tempfile
import threading
from pathlib import Path
from typing import Final

from taskfs.cache.eviction import open_private
from taskfs.support.buffers import Buffer
from taskfs.support.checksum import crc32

# The content of a sealed file. A slice of either is `bytes`.
Content = bytes | mmap.mmap

# Bytes of content that are kept in memory; longer content is mapped.
IN_MEMORY: Final = 1 << 20
# A file that is mapped is not writable. An older taskfs, which empties files to evict them, then
# cannot take the pages from a process that has the file mapped.
_MODE: Final = 0o400
_SUM_BYTES: Final = 4


def read_sealed(path: Path, kind: bytes) -> Content | None:
    """Return the content with its seal, or None if the file is missing or damaged; mark its use."""
    try:
        with open(path, "rb", buffering=0, opener=open_private) as file:
            size = os.fstat(file.fileno()).st_size
            content = _read_or_map(file.fileno(), size)
            os.utime(file.fileno())
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return None
    stop = size - len(kind) - _SUM_BYTES
    if len(content) != size or stop < 0 or content[stop:] != _seal(content, stop, path.name, kind):
        return None
    if isinstance(content, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        content.madvise(mmap.MADV_DONTNEED)  # the check touched every page
    return content


def _read_or_map(descriptor: int, size: int) -> Content:
    if size <= IN_MEMORY:
        return os.pread(descriptor, size, 0)
    return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)


def _seal(content: Content, stop: int, name: str, kind: bytes) -> bytes:
    with memoryview(content) as view, view[:stop] as body:
        checksum = crc32(body, crc32(name.encode()))
    return kind + checksum.to_bytes(_SUM_BYTES, "little")


class SealedWriter:
    """Writes the content of one sealed file. Not safe for concurrent use.

    Content up to `IN_MEMORY` bytes, and all content if no file can be written, is in memory. With
    a *directory*, the file lies there, else it is a temporary file without a name.
    """

    def __init__(self, name: str = "", directory: Path | None = None) -> None:
        self._name = name
        self._directory = directory
        self._memory = bytearray()
        self._descriptor = -1
        self._can_spill = True
        self._temporary: Path | None = None
        self._checksum = crc32(name.encode())
        self.size = 0

    @property
    def is_private(self) -> bool:
        """Whether the file cannot be given a name: no directory was given."""
        return self._directory is None

    def write(self, piece: Buffer) -> None:
        """Append *piece*."""
        self._checksum = crc32(piece, self._checksum)
        self._append(piece)

    def align(self) -> None:
        """Append zeros up to a multiple of 8 bytes."""
        self.write(bytes(-self.size % 8))

    def _append(self, piece: Buffer) -> None:
        self.size += len(piece)
        if self._can_spill and self._descriptor < 0 and self.size > IN_MEMORY:
            self._spill()
        if self._descriptor >= 0:
            try:
                _write_all(self._descriptor, piece)
                return
            except OSError:  # the disk is full
                self._unspill(self.size - len(piece))
        self._memory += piece

    def _spill(self) -> None:
        """Move what was written to a file."""
        try:
            self._descriptor = self._create()
            _write_all(self._descriptor, self._memory)
            self._memory.clear()
        except OSError:
            self._unspill(0)

    def _create(self) -> int:
        if self._directory is None:
            with tempfile.TemporaryFile(buffering=0) as file:
                return os.dup(file.fileno())
        unique = f".{self._name}.{os.getpid()}.{threading.get_ident()}"
        self._temporary = self._directory / unique
        return open_private(str(self._temporary), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)

    def _unspill(self, written: int) -> None:
        """Go on in memory, with the first *written* bytes of the file."""
        self._can_spill = False
        if written:
            self._memory = bytearray(os.pread(self._descriptor, written, 0))
        self.discard()

    def view(self) -> Content:
        """Return what was written so far. The file must grow only, until it is replaced."""
        if self._descriptor >= 0:
            return mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        return bytes(self._memory)

    def seal(self, kind: bytes) -> Content:
        """Append the seal, and return the whole content."""
        self._append(kind + self._checksum.to_bytes(_SUM_BYTES, "little"))
        return self.view()

    def publish(self) -> None:
        """Give the file its name, in place of an earlier file.

        Raises:
            OSError: it cannot be written.
        """
        if self._directory is None:
            return
        if self._descriptor < 0:
            if self.size > IN_MEMORY:
                return  # the disk was full
            self._descriptor = self._create()
            _write_all(self._descriptor, self._memory)
        if self._temporary is not None:
            if self.size > IN_MEMORY:
                os.fchmod(self._descriptor, _MODE)
            os.replace(self._temporary, self._directory / self._name)
            self._temporary = None
        self.discard()

    def discard(self) -> None:
        """Close the file, and remove it unless it has its name."""
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            self._temporary = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _write_all(descriptor: int, piece: Buffer) -> None:
    with memoryview(piece) as view:
        at = 0
        while at < len(view):
            at += os.write(descriptor, view[at:])

"""Sealed files: large content that is written once, and checked whenever a part of it is read.

The content is followed by the CRC-32 of each of its pages, the kind of the file, and a seal: the
content's length and the CRC-32 of the file's name and of the page sums. A file that is cut short,
of another kind or under another's name is a miss. Content up to `IN_MEMORY` bytes is read and
checked when the file is opened. Longer content is read page by page with pread(2), and not mapped:
a program that cuts a mapped file would end this process with SIGBUS.
"""

import contextlib
import os
import struct
import threading
import weakref
from array import array
from pathlib import Path
from typing import Final

from taskfs.cache.eviction import open_private
from taskfs.cache.spill_file import IN_MEMORY, SpillFile, write_all
from taskfs.errors import CacheChanged
from taskfs.support.buffers import Buffer
from taskfs.support.checksum import crc32

# Bytes that are read and checked together: 16 KiB hold the entries of a few hundred members.
SUM_PAGE_SHIFT: Final = 14
SUM_PAGE: Final = 1 << SUM_PAGE_SHIFT
# Pages that one file keeps in memory: as many bytes as those of a short file.
_CACHED_PAGES: Final = IN_MEMORY // SUM_PAGE
_SEAL: Final = struct.Struct("<QI")


class SealedFile:
    """The content of a long sealed file. Safe for concurrent use.

    Reads raise `CacheChanged` once the file was cut or overwritten, or cannot be read, and set
    *is_lost*.
    """

    def __init__(self, descriptor: int, size: int, sums: "array[int]") -> None:
        """Take over *descriptor*."""
        self.is_lost = False
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        self._size = size
        self._sums = sums
        self._pages: dict[int, bytes] = {}

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        if start >= stop:
            return b""
        first, last = start >> SUM_PAGE_SHIFT, stop - 1 >> SUM_PAGE_SHIFT
        begin = first << SUM_PAGE_SHIFT
        if first == last:
            return self.page(first)[start - begin : stop - begin]
        return self._read(first, last + 1)[start - begin : stop - begin]

    def page(self, number: int) -> bytes:
        """Return the page [number * SUM_PAGE, ...); the last one may be short."""
        page = self._pages.get(number)
        if page is None:
            page = self._read(number, number + 1)
            if len(self._pages) >= _CACHED_PAGES:
                self._pages.clear()
            self._pages[number] = page
        return page

    def _read(self, first: int, stop: int) -> bytes:
        """Return the pages [first, stop)."""
        begin = first << SUM_PAGE_SHIFT
        length = min(stop << SUM_PAGE_SHIFT, self._size) - begin
        content = b""
        with contextlib.suppress(OSError):  # such as EIO of the disk or ESTALE of a file server
            content = os.pread(self._descriptor, length, begin)
        if len(content) != length or page_sums(content) != self._sums[first:stop]:
            self.is_lost = True
            raise CacheChanged("an index in the disk cache was changed while it was in use")
        return content


# The content of a sealed file. A slice of either is `bytes`.
Content = bytes | SealedFile


def page_sums(content: Buffer) -> "array[int]":
    """Return the CRC-32 of each page of *content*."""
    with memoryview(content) as view:
        pages = range(0, len(view), SUM_PAGE)
        return array("I", [crc32(view[at : at + SUM_PAGE]) for at in pages])


def read_sealed(path: Path, kind: bytes) -> Content | None:
    """Return the content, or None if the file is missing or damaged; mark its use."""
    try:
        with open(path, "rb", buffering=0, opener=open_private) as file:
            content = _open_content(file.fileno(), path.name, kind)
            if content is not None:
                os.utime(file.fileno())
            return content
    except OSError:
        return None


def _open_content(descriptor: int, name: str, kind: bytes) -> Content | None:
    whole = os.fstat(descriptor).st_size
    end = os.pread(descriptor, len(kind) + _SEAL.size, max(0, whole - len(kind) - _SEAL.size))
    if len(end) != len(kind) + _SEAL.size or not end.startswith(kind):
        return None
    size, _ = _SEAL.unpack_from(end, len(kind))
    pages = -(-size // SUM_PAGE)
    sums = array("I")
    if whole != size + pages * sums.itemsize + len(end):
        return None
    sums.frombytes(os.pread(descriptor, pages * sums.itemsize, size))
    if end != _seal(kind, name, size, sums):
        return None
    if size > IN_MEMORY:
        return SealedFile(os.dup(descriptor), size, sums)
    content = os.pread(descriptor, size, 0)
    return content if page_sums(content) == sums else None


def _seal(kind: bytes, name: str, size: int, sums: "array[int]") -> bytes:
    return kind + _SEAL.pack(size, crc32(sums.tobytes(), crc32(name.encode())))


class SealedWriter(SpillFile):
    """Writes the content of one sealed file. Not safe for concurrent use.

    With a *directory* the file lies there, under a temporary name until it is published; otherwise
    it never has a name.
    """

    def __init__(self, name: str = "", directory: Path | None = None) -> None:
        super().__init__(directory)
        self.name = name
        self._temporary: Path | None = None
        self._sums = array("I")  # of the whole pages, and of the last one as far as it is written

    @property
    def is_private(self) -> bool:
        """Whether the file cannot be given a name: no directory was given, or its disk is full."""
        return self._directory is None

    def open_scratch(self) -> SpillFile:
        """Return an empty file without a name in the same directory."""
        return SpillFile(self._directory)

    def write(self, piece: Buffer) -> None:
        """Append *piece*."""
        self._add_sums(piece)
        self.append(piece)

    def _add_sums(self, piece: Buffer) -> None:
        with memoryview(piece) as view:
            rest = min(-self.size % SUM_PAGE, len(view))  # they belong to the last page
            if rest:
                self._sums[-1] = crc32(view[:rest], self._sums[-1])
            self._sums.extend(page_sums(view[rest:]))

    def align(self) -> None:
        """Append zeros up to a multiple of 8 bytes."""
        self.write(bytes(-self.size % 8))

    def _create(self) -> int:
        if self._directory is None:
            return super()._create()
        unique = f".{self.name}.{os.getpid()}.{threading.get_ident()}"
        self._temporary = self._directory / unique
        return open_private(
            str(self._temporary), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        )

    def seal(self, kind: bytes) -> Content:
        """Append the sums and the seal, and return the content."""
        size = self.size
        self.append(self._sums.tobytes() + _seal(kind, self.name, size, self._sums))
        if self._descriptor >= 0 and size > IN_MEMORY:
            return SealedFile(os.dup(self._descriptor), size, self._sums)
        return self[:size]

    def publish(self) -> None:
        """Give the file its name, in place of an earlier file.

        Raises:
            OSError: it cannot be written.
        """
        if self._directory is None:
            return
        if self._descriptor < 0:
            with open(self._create(), "wb", buffering=0) as file:
                write_all(file.fileno(), self._memory)
        if self._temporary is not None:
            with contextlib.suppress(FileNotFoundError):  # the cache was cleared meanwhile
                os.replace(self._temporary, self._directory / self.name)
            self._temporary = None
        self.discard()

    def discard(self) -> None:
        """Close the file, and remove it unless it has its name."""
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            self._temporary = None
        super().discard()

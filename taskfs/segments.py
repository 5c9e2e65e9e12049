"""`Segment`: a file of `SEGMENT_BLOCKS` blocks in the cache directory.

A table at the file's end holds, per block, its length and a CRC-32 that counts its place in; a
block counts once its entry is right.
"""

import contextlib
import errno
import os
import struct
import zlib
from pathlib import Path
from typing import Final

from taskfs.blocks import BLOCK
from taskfs.decoders import crc32

SEGMENT_BLOCKS: Final = 64
SEGMENT: Final = SEGMENT_BLOCKS * BLOCK
ENTRY: Final = struct.Struct("<LL")  # length (0: absent) and CRC-32 of the block
TABLE: Final = SEGMENT_BLOCKS * ENTRY.size


class Segment:
    """One open segment file and its table as this process knows it."""

    __slots__ = ("descriptor", "place_crc", "table", "touched_s")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.descriptor = descriptor
        self.table = bytearray(TABLE)
        self.place_crc = zlib.crc32(path.name.encode())
        self.touched_s = float("-inf")

    @property
    def is_removed(self) -> bool:
        """Whether nobody else can find the file any more."""
        try:
            return not os.fstat(self.descriptor).st_nlink
        except OSError:
            return True

    def read_table(self, first: int, count: int) -> bytes:
        """Learn what the file says of *count* blocks; fewer where it ends before."""
        at = first * ENTRY.size
        entries = os.pread(self.descriptor, count * ENTRY.size, SEGMENT + at)
        self.table[at : at + len(entries)] = entries
        return entries

    def entry(self, place: int) -> tuple[int, int]:
        """Return a block's length (0: absent) and checksum; another mount may have written it."""
        length, crc = self._known(place)
        if length:
            return length, crc
        # Not from the table: another thread that looked before may write there what it saw.
        entry = self.read_table(place, 1)
        length, crc = ENTRY.unpack(entry) if len(entry) == ENTRY.size else (0, 0)
        return length, crc

    def present(self, first: int, stop: int) -> list[int]:
        """Return which of the blocks [first, stop) are not absent."""
        known = [place for place in range(first, stop) if self._known(place)[0]]
        if len(known) == stop - first:
            return known
        entries = self.read_table(first, stop - first)
        entries = entries[: len(entries) - len(entries) % ENTRY.size]
        return [first + n for n, (length, _) in enumerate(ENTRY.iter_unpack(entries)) if length]

    def _known(self, place: int) -> tuple[int, int]:
        length, crc = ENTRY.unpack_from(self.table, place * ENTRY.size)
        return length, crc

    def checksum(self, place: int, block: bytes | memoryview) -> int:
        """Return what the table must say of *block*, there and nowhere else."""
        return crc32(block, (self.place_crc + place) & 0xFFFFFFFF)

    def read(self, place: int, length: int) -> bytes:
        """Return what stands where the block lies, *length* bytes if they are there."""
        return os.pread(self.descriptor, min(length, BLOCK), place * BLOCK)

    def write(self, first: int, run: memoryview) -> None:
        """Put the whole blocks of *run* there, from the block *first* on; OSError if they do not
        fit on the disk."""
        entries = bytearray()
        for at in range(0, len(run), BLOCK):
            block = run[at : at + BLOCK]
            entries += ENTRY.pack(len(block), self.checksum(first + at // BLOCK, block))
        if os.pwrite(self.descriptor, run, first * BLOCK) < len(run):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        at = first * ENTRY.size
        os.pwrite(self.descriptor, entries, SEGMENT + at)
        self.table[at : at + len(entries)] = entries

    def clear(self, first: int, stop: int) -> None:
        """Say of the blocks [first, stop) that they are absent."""
        begin, end = first * ENTRY.size, stop * ENTRY.size
        self.table[begin:end] = bytes(end - begin)
        os.pwrite(self.descriptor, bytes(end - begin), SEGMENT + begin)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)

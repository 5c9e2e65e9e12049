"""`Segment`: a file of `SEGMENT_BLOCKS` blocks in the cache directory.

A table at the file's end holds, per block, its length and a CRC-32 that counts its place in; a
block counts once its entry is right.
"""

import contextlib
import errno
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Final

from taskfs.cache.memory_cache import BLOCK
from taskfs.support.buffers import LARGE, address_of, has_address
from taskfs.support.checksum import crc32
from taskfs.support.fallback import log_fallback

SEGMENT_BLOCKS: Final = 64
SEGMENT: Final = SEGMENT_BLOCKS * BLOCK
ENTRY: Final = struct.Struct("<LL")  # length (0: absent) and CRC-32 of the block
TABLE: Final = SEGMENT_BLOCKS * ENTRY.size
PAGE: Final = 4096  # what O_DIRECT wants memory and file offsets to be multiples of, at most
# Who writes past the page cache waits for the disk. One does at a time: where the disk is slow, the
# others, but for one that writes to the same file, leave what they have to the system and go on.
_direct_io_lock: Final = threading.Lock()


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

    def entries(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return the length (0: absent) and checksum of the blocks [first, stop), fewer where the
        file ends before; another mount may have written them."""
        known = bytes(self.table[first * ENTRY.size : stop * ENTRY.size])
        found = list(ENTRY.iter_unpack(known))
        if all(length for length, _ in found):
            return found
        # Not from the table: another thread that looked before may write there what it saw.
        entries = self.read_table(first, stop - first)
        return list(ENTRY.iter_unpack(entries[: len(entries) - len(entries) % ENTRY.size]))

    def present(self, first: int, stop: int) -> list[int]:
        """Return which of the blocks [first, stop) are not absent."""
        found = self.entries(first, stop)
        return [first + n for n, (length, _) in enumerate(found) if length]

    def checksum(self, place: int, block: memoryview) -> int:
        """Return what the table must say of *block*, there and nowhere else."""
        return crc32(block, (self.place_crc + place) & 0xFFFFFFFF)

    def read(self, first: int, room: memoryview) -> tuple[int, bool]:
        """Fill *room* with the blocks from *first* on, as far as they are there and right; return
        how many bytes are, and whether the block behind them is there and wrong."""
        entries = self.entries(first, first + len(room) // BLOCK)
        count = next((n for n, (length, _) in enumerate(entries) if not length), len(entries))
        room = room[: os.preadv(self.descriptor, [room[: count * BLOCK]], first * BLOCK)]
        good = 0
        for place, (length, crc) in enumerate(entries[:count], first):
            block = room[good : good + min(length, BLOCK)]
            if len(block) != length or self.checksum(place, block) != crc:
                return good, True
            good += length
            if length < BLOCK:
                break  # the object's last
        return good, False

    def write(self, first: int, run: memoryview) -> None:
        """Put the whole blocks of *run* there, from the block *first* on; OSError if they do not
        fit on the disk."""
        entries = bytearray()
        for at in range(0, len(run), BLOCK):
            block = run[at : at + BLOCK]
            entries += ENTRY.pack(len(block), self.checksum(first + at // BLOCK, block))
        if self._put(run, first * BLOCK) < len(run):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        at = first * ENTRY.size
        os.pwrite(self.descriptor, entries, SEGMENT + at)
        self.table[at : at + len(entries)] = entries

    def _put(self, run: memoryview, at: int) -> int:
        """Write *run* to the file's bytes from *at* on; return how many were written.

        A long one goes past the system's page cache: what is read of it is kept decoded, and the
        pages would take memory from whoever computes on this machine.
        """
        is_long = len(run) >= LARGE and len(run) % BLOCK == 0 and has_address(run)
        if is_long and address_of(run) % PAGE == 0 and _direct_io_lock.acquire(blocking=False):
            try:
                flags = os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC
                descriptor = os.open(f"/proc/self/fd/{self.descriptor}", flags)
                try:
                    return os.pwrite(descriptor, run, at)
                finally:
                    os.close(descriptor)
            except (OSError, AttributeError) as exc:
                # Mostly a file system that cannot; what else is wrong, the checksum tells.
                log_fallback("O_DIRECT", exc)
            finally:
                _direct_io_lock.release()
        return os.pwrite(self.descriptor, run, at)

    def clear(self, first: int, stop: int) -> None:
        """Say of the blocks [first, stop) that they are absent."""
        begin, end = first * ENTRY.size, stop * ENTRY.size
        self.table[begin:end] = bytes(end - begin)
        os.pwrite(self.descriptor, bytes(end - begin), SEGMENT + begin)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)

"""`Segment`: a file of `SEGMENT_BLOCKS` blocks in the cache directory.

A table at the end of the file has the length and the CRC-32 of each block. The checksum includes
the file's name and the block's number, so a block at the wrong place is damaged. A block without a
valid entry is absent.
"""

import contextlib
import errno
import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Final

from taskfs.cache.block import BLOCK
from taskfs.support.buffers import address_of, has_address
from taskfs.support.checksum import crc32
from taskfs.support.fallback import log_fallback

# Blocks of one segment file. It has the length of the longest run, so a run touches two at most.
SEGMENT_BLOCKS: Final = 64
SEGMENT: Final = SEGMENT_BLOCKS * BLOCK
ENTRY: Final = struct.Struct("<LL")  # length (0: absent) and CRC-32 of the block
TABLE: Final = SEGMENT_BLOCKS * ENTRY.size
# Bytes. O_DIRECT needs memory and file offsets to be multiples of at most this.
DIRECT_ALIGNMENT: Final = 4096
# Bytes from which a run is written past the page cache. A shorter one is not worth the wait for the
# disk.
DIRECT_BYTES: Final = 256 << 10
# Held during a write with O_DIRECT, which waits for the disk. If it is held, other threads write
# through the page cache and do not wait, so a slow disk blocks one thread only.
_direct_io_lock: Final = threading.Lock()


class Segment:
    """An open segment file and this process's copy of its table.

    Safe for concurrent use: an outdated copy of an entry causes a miss, or a checksum that fails.
    """

    __slots__ = ("descriptor", "name_crc", "table", "touched_s")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.descriptor = descriptor
        self.table = bytearray(TABLE)
        self.name_crc = zlib.crc32(path.name.encode())
        self.touched_s = float("-inf")

    @property
    def is_removed(self) -> bool:
        """Whether the file was unlinked."""
        try:
            return not os.fstat(self.descriptor).st_nlink
        except OSError:
            return True

    def read_table(self, first: int, count: int) -> bytes:
        """Copy and return the entries of *count* blocks; fewer if the file ends before."""
        start = first * ENTRY.size
        entries = os.pread(self.descriptor, count * ENTRY.size, SEGMENT + start)
        self.table[start : start + len(entries)] = entries
        return entries

    def entries(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return the length (0: absent) and checksum of the blocks [first, stop).

        Entries that are absent in the table are read from the file, because another mount may have
        written the blocks. There are fewer entries if the file ends before.
        """
        found = list(ENTRY.iter_unpack(bytes(self.table[first * ENTRY.size : stop * ENTRY.size])))
        if all(length for length, _ in found):
            return found
        # Not through the table: another thread may write older entries there at this moment.
        entries = self.read_table(first, stop - first)
        return list(ENTRY.iter_unpack(entries[: len(entries) - len(entries) % ENTRY.size]))

    def present(self, first: int, stop: int) -> list[int]:
        """Return which of the blocks [first, stop) have an entry."""
        found = self.entries(first, stop)
        return [first + n for n, (length, _) in enumerate(found) if length]

    def checksum(self, number: int, block: memoryview) -> int:
        """Return the checksum of *block* as the block *number* of this file."""
        return crc32(block, (self.name_crc + number) & 0xFFFFFFFF)

    def read(self, first: int, buffer: memoryview) -> tuple[int, bool]:
        """Fill *buffer* with adjacent valid blocks from *first* on.

        Return the number of bytes, and whether the next block is present but damaged.
        """
        entries = self.entries(first, first + len(buffer) // BLOCK)
        count = next((n for n, (length, _) in enumerate(entries) if not length), len(entries))
        buffer = buffer[: os.preadv(self.descriptor, [buffer[: count * BLOCK]], first * BLOCK)]
        valid = 0
        for number, (length, crc) in enumerate(entries[:count], first):
            block = buffer[valid : valid + min(length, BLOCK)]
            if len(block) != length or self.checksum(number, block) != crc:
                return valid, True
            valid += length
            if length < BLOCK:
                break  # the object's last block
        return valid, False

    def write(self, first: int, run: memoryview) -> None:
        """Write the whole blocks of *run*, from the block *first* on, and then their entries.

        Raises:
            OSError: they do not fit on the disk, or the write failed.
        """
        entries = bytearray()
        for start in range(0, len(run), BLOCK):
            block = run[start : start + BLOCK]
            entries += ENTRY.pack(len(block), self.checksum(first + start // BLOCK, block))
        if self._write_at(first * BLOCK, run) < len(run):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        start = first * ENTRY.size
        os.pwrite(self.descriptor, entries, SEGMENT + start)
        self.table[start : start + len(entries)] = entries

    def _write_at(self, offset: int, run: memoryview) -> int:
        """Write *run* at *offset*; return how many bytes were written.

        A long run bypasses the page cache: its pages would take memory from other programs, and a
        member is cached decoded already.
        """
        is_long = len(run) >= DIRECT_BYTES and len(run) % BLOCK == 0 and has_address(run)
        is_aligned = is_long and address_of(run) % DIRECT_ALIGNMENT == 0
        if is_aligned and _direct_io_lock.acquire(blocking=False):
            try:
                flags = os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC
                descriptor = os.open(f"/proc/self/fd/{self.descriptor}", flags)
                try:
                    return os.pwrite(descriptor, run, offset)
                finally:
                    os.close(descriptor)
            except (OSError, AttributeError) as exc:
                # Mostly a file system without O_DIRECT. The checksum finds any other damage.
                log_fallback("O_DIRECT", exc)
            finally:
                _direct_io_lock.release()
        return os.pwrite(self.descriptor, run, offset)

    def clear(self, first: int, stop: int) -> None:
        """Remove the entries of the blocks [first, stop), so that they are absent."""
        begin, end = first * ENTRY.size, stop * ENTRY.size
        self.table[begin:end] = bytes(end - begin)
        os.pwrite(self.descriptor, bytes(end - begin), SEGMENT + begin)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.descriptor)

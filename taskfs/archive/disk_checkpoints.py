"""`DiskCheckpoints`: the checkpoints of one deflated member in the disk cache.

The decoded bytes are cut into stretches. Checkpoint number *n* is at the first block of DEFLATE
data that begins after stretch *n* - 1. The checkpoints lie in the disk cache like the blocks of an
object of their own, one in each block: with a checksum, within the size of the cache, and each
there as soon as it is known.
"""

import contextlib
import struct
import zlib
from collections.abc import Callable
from typing import Final

from taskfs.archive import isal
from taskfs.archive.block_start import BlockStart, can_find_block_starts
from taskfs.archive.bounds import SPAN, STRETCH
from taskfs.archive.decode_cursor import Checkpoint
from taskfs.archive.decoders import DEFLATED
from taskfs.archive.member import Member
from taskfs.cache.block import BLOCK
from taskfs.cache.disk_cache import DiskBlocks, DiskCache, cache_key
from taskfs.cache.segment_file import SEGMENT_BLOCKS

# DEFLATE expands data at most 1032 times (zlib's technical details, "maximum compression factor").
# A larger size in the central directory is false, and loops over its stretches take for ever.
MAX_EXPANSION: Final = 1032
# The layout of the checkpoints on disk and `STRETCH`. Another layout has another number, and files
# of other names.
LAYOUT: Final = 2
MAGIC: Final = b"taskfs checkpoint %d\n" % LAYOUT
# The member: offset of its local header, compressed size, size, CRC-32. The checkpoint: decoded
# bytes before it, compressed bits before it, their CRC-32, and the bits up to the next byte. The
# compressed window follows.
_HEAD: Final = struct.Struct("<20sQQQLQQLB")


class DiskCheckpoints:
    """The checkpoints of one member on disk. No method raises: a failure is a miss.

    Safe for concurrent use, by threads and by processes.
    """

    def __init__(self, disk: DiskCache, key: str, member: Member) -> None:
        """Use the checkpoints of *member* of the object version with the cache key *key*."""
        self._disk = disk
        # Named like the blocks of the version, so that both are known to belong to one task.
        self._blocks: DiskBlocks = disk.blocks_of(f"{key}-c{LAYOUT}-{member.number:x}")
        self._lock_key = cache_key(key, "checkpoints", member.number)
        self._member = member
        self._drop_count = 0

    @property
    def drop_count(self) -> int:
        """How often the checkpoints were dropped; those found before must not be saved."""
        return self._drop_count

    def has(self, number: int) -> bool:
        """Whether the checkpoint *number* seems to be on disk."""
        return bool(self._blocks.present(number, number + 1))

    def nearest(self, offset: int, beyond: int) -> Checkpoint | None:
        """Return the last checkpoint at or before the decoded byte *offset*.

        None if there is none after the byte *beyond*.
        """
        first, stop = max(1, beyond // STRETCH), offset // STRETCH + 1
        while first < stop:
            begin = max(first, (stop - 1) // SEGMENT_BLOCKS * SEGMENT_BLOCKS)
            for number in reversed(self._blocks.present(begin, stop)):
                checkpoint = self.load(number)
                if checkpoint is not None and checkpoint.output_offset <= offset:
                    return checkpoint if checkpoint.output_offset > beyond else None
            stop = begin
        return None

    def load(self, number: int) -> Checkpoint | None:
        """Return the checkpoint *number*, or None."""
        record = self._blocks.get(number)
        start = self._unpack(bytes(record)) if record is not None else None
        checkpoint = start.checkpoint() if start is not None else None
        return (
            checkpoint
            if checkpoint is not None and checkpoint.output_offset < self._member.size
            else None
        )

    def save(self, number: int, start: BlockStart, drop_count: int) -> None:
        """Write a checkpoint, unless they were dropped since `drop_count` was read."""
        if self._drop_count == drop_count:
            self._blocks.put(number, self._pack(start))
            if self._drop_count != drop_count:
                self._blocks.drop(number, number)

    def drop(self) -> None:
        """Remove all checkpoints: bytes that were decoded from them proved wrong."""
        self._drop_count += 1
        self._blocks.drop(0, self._member.size // STRETCH)

    def lock(
        self, number: int, check: Callable[[], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Lock the stretch before the checkpoint *number* against decoding by other processes.

        While another process holds it, wait until the checkpoint is on disk, for a bounded time.
        *check* is called while waiting; it may raise an exception to end the wait.
        """

        def is_there() -> bool:
            check()
            return self.has(number)

        return self._disk.lock_range(self._lock_key, number, number, is_there)

    def _identity(self) -> tuple[bytes, int, int, int, int]:
        member = self._member
        return MAGIC, member.header_offset, member.compressed_size, member.size, member.crc32

    def _pack(self, start: BlockStart) -> bytes:
        position = (start.output_offset, start.bit_offset, start.crc, start.bits)
        return _HEAD.pack(*self._identity(), *position) + isal.compress(start.window)

    def _unpack(self, record: bytes) -> BlockStart | None:
        """Return the checkpoint in *record*; None for one of another layout or member."""
        if len(record) < _HEAD.size:
            return None
        *identity, output_offset, bit_offset, crc, bits = _HEAD.unpack_from(record)
        if tuple(identity) != self._identity():
            return None
        try:
            window = zlib.decompressobj().decompress(record[_HEAD.size :], isal.WINDOW + 1)
        except zlib.error:
            return None
        is_whole = len(window) == min(isal.WINDOW, output_offset)
        is_inside = bit_offset <= 8 * self._member.compressed_size
        is_valid = is_whole and is_inside and not bits >> -bit_offset % 8
        return BlockStart(output_offset, bit_offset, bits, crc, window) if is_valid else None


class ArchiveCheckpoints:
    """Makes the `DiskCheckpoints` of the members of one object version."""

    def __init__(self, disk: DiskCache, key: str, directory_start: int) -> None:
        """Use *disk* for the version with the cache key *key*; members end at *directory_start*."""
        self._disk = disk
        self._key = key
        self._directory_start = directory_start

    def of(self, member: Member) -> DiskCheckpoints | None:
        """Return the checkpoints of *member*; None if its checkpoints are not worth keeping.

        A member of one compressed block is decoded whole before its first byte is returned (I-2).
        """
        is_long = member.compressed_size > BLOCK and member.size > STRETCH + SPAN
        packed = member.compressed_size
        is_possible = packed <= self._directory_start and member.size <= MAX_EXPANSION * packed
        can_keep = is_long and is_possible and can_find_block_starts()
        if member.method != DEFLATED or not can_keep:
            return None
        return DiskCheckpoints(self._disk, self._key, member)

"""`DecoderCache`: the decoders of the members of one archive."""

import threading
from collections import Counter
from functools import partial

from taskfs.archive.bounds import MAX_PIECE
from taskfs.archive.decoders import DECODERS, LZMA
from taskfs.archive.disk_checkpoints import ArchiveCheckpoints
from taskfs.archive.member import Member
from taskfs.archive.resources import ArchiveResources
from taskfs.archive.seekable_decoder import SeekableDecoder
from taskfs.cache.block import BLOCK
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.readahead import ReadAheadBudget, ReadAheadReader
from taskfs.support.buffers import Buffer


class CompressedStream:
    """The compressed bytes of a member for one cursor, in pieces of whole blocks that grow."""

    def __init__(
        self, blocks: BlockReader, budget: ReadAheadBudget, start: int, stop: int, input_offset: int
    ) -> None:
        self._reader = ReadAheadReader(blocks, budget, start + input_offset, stop)
        self._blocks = blocks
        self._start = start
        self._stop = stop
        self._length = BLOCK

    def piece(self, offset: int) -> Buffer:
        at = self._start + offset
        length, self._length = self._length, min(MAX_PIECE, 2 * self._length)
        return self._reader.read_some(at, min(self._stop - at, length - at % BLOCK))

    def is_cached(self, offset: int) -> bool:
        at = self._start + offset
        return self._blocks.is_cached(at, min(self._stop, at + 1))

    def close(self) -> None:
        self._reader.close()


class DecoderCache:
    """One decoder for each member that is open, shared by its handles, and some idle ones.

    Safe for concurrent use: the lock guards the tables, and no decoder is used under it.
    """

    def __init__(
        self,
        blocks: BlockReader,
        resources: ArchiveResources,
        disk_checkpoints: ArchiveCheckpoints | None,
    ) -> None:
        """Create the cache for the archive in *blocks*, with its checkpoints on disk, if any."""
        self._blocks = blocks
        self._disk_checkpoints = disk_checkpoints
        self._resources = resources
        self._lock = threading.Lock()
        self._decoders: dict[Member, SeekableDecoder] = {}
        self._users: Counter[SeekableDecoder] = Counter()

    def acquire(self, member: Member, start: int, *, in_sequence: bool) -> SeekableDecoder:
        """Return the decoder of *member*, whose data begins at *start*, until `release`.

        *in_sequence*: members are being read to their ends one after another, so a new decoder
        expects the same.
        """
        resources = self._resources
        with self._lock:
            decoder = self._decoders.get(member)
            if decoder is None:
                stop = start + member.compressed_size
                decoder = self._decoders[member] = SeekableDecoder(
                    DECODERS[member.method],
                    partial(
                        CompressedStream, self._blocks, resources.read_ahead_budget, start, stop
                    ),
                    size=member.size,
                    crc=member.crc32,
                    spans=resources.spans,
                    checkpoint_budget=resources.checkpoint_budget,
                    pool=resources.decoding,
                    waiter=resources.waiter,
                    decode_budget=resources.decode_budget,
                    in_sequence=in_sequence,
                    push_enabled=resources.push_enabled,
                    disk=self._disk_checkpoints.of(member)
                    if self._disk_checkpoints is not None
                    else None,
                    saving=resources.saving,
                    max_workers=resources.max_workers,
                )
            self._users[decoder] += 1
        resources.idle.remove(decoder)
        return decoder

    def release(self, member: Member, decoder: SeekableDecoder) -> None:
        """Note that one handle less uses *decoder*; an unused one stays cached for a while."""
        with self._lock:
            self._users[decoder] -= 1
            if self._users[decoder]:
                return
            del self._users[decoder]
        if member.method == LZMA:  # it may hold a dictionary of 64 MiB
            self._evict(member, decoder)
            return
        self._resources.idle.add(decoder, lambda: self._evict(member, decoder))

    def discard(self, member: Member) -> None:
        """Drop the decoder and the checkpoints of *member*, if any: its bytes proved wrong."""
        with self._lock:
            decoder = self._decoders.pop(member, None)
        if decoder is not None:
            decoder.drop_disk_checkpoints()
            decoder.close()
        elif self._disk_checkpoints is not None:
            on_disk = self._disk_checkpoints.of(member)
            if on_disk is not None:
                on_disk.drop()

    def other_open_bytes(self, member: Member) -> int:
        """Return the compressed size of all other members whose decoders are in use."""
        with self._lock:
            return sum(
                other.compressed_size
                for other, decoder in self._decoders.items()
                if decoder in self._users and other.number != member.number
            )

    def _evict(self, member: Member, decoder: SeekableDecoder) -> None:
        with self._lock:
            if decoder in self._users:
                return  # the member was opened again
            if self._decoders.get(member) is decoder:
                del self._decoders[member]
        decoder.close()

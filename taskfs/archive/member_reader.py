"""Random reads of one member: how its bytes are decoded, and whether they are right."""

import threading
from abc import ABC, abstractmethod
from typing import NamedTuple

from taskfs.archive.decoder_cache import DecoderCache
from taskfs.archive.decoders import STORED, decode_whole
from taskfs.archive.integrity import IntegrityTable, MemberIntegrity, Verification, wrong_crc
from taskfs.archive.local_header import LocalHeaders, guess_data_start
from taskfs.archive.member import Member
from taskfs.archive.member_part import PartRead, first_fetch_bytes
from taskfs.archive.prefetch import Prefetcher
from taskfs.archive.read_pattern import is_long_first_read
from taskfs.archive.seekable_decoder import SeekableDecoder
from taskfs.cache.block import BLOCK
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.memory_cache import Extent, ExtentCache
from taskfs.cache.readahead import ReadAheadBudget, ReadAheadReader
from taskfs.errors import CorruptData
from taskfs.support.buffers import Buffer
from taskfs.support.checksum import crc32


class ReaderContext(NamedTuple):
    """The objects that all readers of one archive share."""

    blocks: BlockReader
    headers: LocalHeaders
    integrity: IntegrityTable
    decoders: DecoderCache
    prefetch: Prefetcher
    read_ahead_budget: ReadAheadBudget
    spans: ExtentCache
    owner: int  # under which `spans` keeps small members, which are decoded whole


class MemberReader(ABC):
    """Random reads of one member through one open handle; safe for concurrent use.

    When wrong bytes are found, the cached bytes of the member are dropped and the read is repeated,
    as long as no unverified byte of the member was returned. After that the failure is final for
    all open handles, and a handle that is opened later starts with a new state.
    """

    def __init__(self, context: ReaderContext, member: Member) -> None:
        self.member = member
        self.size = member.size
        self._context = context
        self._lock = threading.Lock()
        self._start: int | None = None  # of the data in the archive
        self._reached = 0  # the end of the furthest read
        self._begin = member.size  # the lowest offset that was read
        self._own = MemberIntegrity(member)  # of the bytes that this handle returned
        self._shared = self._find_integrity()  # of the bytes that any handle returned

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size) of the member, fewer only at its end.

        Raises:
            CorruptData: a checksum, size or header that does not match (EIO).
            StaleObject, NotFound, Unavailable, …: as `RemoteObject.fetch_range`.
        """
        piece = self.read_for_push(offset, size)
        self._reached = max(self._reached, offset + len(piece))
        self._begin = min(self._begin, offset)
        if piece and offset + len(piece) >= self.size:
            self._context.prefetch.note_read_to_end(self.member)
        return piece

    @property
    def part_read(self) -> PartRead | None:
        """The part that programs have read, or None."""
        return PartRead(self.member, self._begin, self._reached) if self._reached else None

    def read_for_push(self, offset: int, size: int) -> Buffer:
        """Read as `read_at` does, but do not count it as a read by a program."""
        if not self.size:
            self._check_empty()
        if offset >= self.size:
            return b""
        if self._shared.damage is not None:
            raise CorruptData(str(self._shared.damage))
        try:
            return self._read_checked(offset, size)
        except CorruptData as exc:
            if self._fail(exc):
                # The kernel repeats a read-ahead that failed. With a new state, the repeated read
                # could succeed, so this handle keeps the old one.
                self._context.integrity.forget(self.member)
                raise
        try:
            return self._read_checked(offset, size)
        except CorruptData as exc:
            self._fail(exc)
            raise

    def take_pushable(self) -> range:
        """Return bytes in memory that a sequential reader needs next; each is returned once."""
        return range(0)

    def close(self) -> None:
        """Release the resources that this handle shares with no other."""
        self._release()
        self._context.prefetch.note_closed(self.member, self._reached)

    def _release(self) -> None:  # noqa: B027 - not every method holds something
        """Release the resources that a later read makes again."""

    def _find_integrity(self) -> MemberIntegrity:
        return self._context.integrity.get(self.member)

    def _fail(self, damage: CorruptData) -> bool:
        """Drop what is cached of the member; return whether the failure is final."""
        self.drop_cached()
        return self._shared.fail(
            damage, unverified=self._own.verification is not Verification.CLEAN
        )

    def drop_cached(self) -> None:
        """Drop the cached bytes of the member: they proved wrong."""
        member, context = self.member, self._context
        start = guess_data_start(member) if self._start is None else self._start
        context.blocks.drop(member.header_offset, start + member.compressed_size)
        context.spans.drop(context.owner, member.number, member.number)
        context.decoders.discard(member)
        with self._lock:
            self._start = None
        self._own.forget_ranges()

    def _check_empty(self) -> None:
        """Raise CorruptData for an empty member with a checksum or with data."""
        member = self.member
        if member.crc32 or (member.method == STORED and member.compressed_size):
            raise CorruptData(
                f"{member.path}: its size is 0, but its checksum or packed size is not"
            )

    def _read_checked(self, offset: int, size: int) -> Buffer:
        """Return the requested bytes; if they complete the member, its CRC-32 is right.

        The checksum is that of the returned bytes, which may have been fetched at different
        times.
        """
        piece = self._read(offset, size)
        crc = crc32(piece)
        self._own.add(offset, piece, crc)
        self._shared.add(offset, piece, crc)
        return piece

    def _locate(self, data_bytes: int = 0) -> int:
        """Return where the member's data begins in the archive; looked up once.

        The look-up fetches the first *data_bytes* bytes of the data as well.
        """
        start = self._start
        if start is None:
            start = self._start = self._context.headers.data_start(self.member, data_bytes)
        return start

    @abstractmethod
    def _read(self, offset: int, size: int) -> Buffer:
        """Return the requested bytes, checked as far as the method allows."""


class SmallReader(MemberReader):
    """A member that is decoded and checked as a whole, and cached among the spans."""

    def _find_integrity(self) -> MemberIntegrity:
        return MemberIntegrity(self.member)  # only verified bytes are returned

    def _read_checked(self, offset: int, size: int) -> Buffer:
        return self._read(offset, size)

    def _read(self, offset: int, size: int) -> Buffer:
        spans, owner = self._context.spans, self._context.owner
        extent = spans.find(owner, self.member.number)
        if extent is None:
            extent = Extent(owner, self.member.number, 1, self._decode())
            spans.put(extent)
        return memoryview(extent.body)[offset : offset + size]

    def take_pushable(self) -> range:
        pushes = not self._reached and self._context.prefetch.should_push_on_open(self.member)
        return range(self.size if pushes else 0)

    def _decode(self) -> Buffer:
        member = self.member
        self._start, packed = self._context.headers.read_packed(member)
        whole = decode_whole(member.method, packed, member.size)
        if (crc := crc32(whole)) != member.crc32:
            raise wrong_crc(member, crc)
        return whole


class CompressedReader(MemberReader):
    """A member that is decoded; all its readers share one `SeekableDecoder`."""

    def __init__(self, context: ReaderContext, member: Member) -> None:
        super().__init__(context, member)
        self._decoder: SeekableDecoder | None = None

    def take_pushable(self) -> range:
        decoder = self._decoder
        return decoder.take_pushable() if decoder is not None else range(0)

    def _release(self) -> None:
        with self._lock:
            decoder, self._decoder = self._decoder, None
        if decoder is not None:
            self._context.decoders.release(self.member, decoder)

    def drop_cached(self) -> None:
        self._release()
        super().drop_cached()

    def _acquire(self, data_bytes: int) -> SeekableDecoder:
        start = self._locate(data_bytes)
        with self._lock:
            if self._decoder is None:
                in_sequence = self._context.prefetch.is_sequential
                self._decoder = self._context.decoders.acquire(
                    self.member, start, in_sequence=in_sequence
                )
            return self._decoder

    def _read(self, offset: int, size: int) -> Buffer:
        is_long = is_long_first_read(offset, offset + size)
        decoder = self._acquire(first_fetch_bytes(self.member) if is_long else 0)
        if self.member.compressed_size <= BLOCK:
            decoder.verify()
        return decoder.read_at(offset, size)


class StoredReader(MemberReader):
    """A member that is read in place."""

    def __init__(self, context: ReaderContext, member: Member) -> None:
        super().__init__(context, member)
        self._reader: ReadAheadReader | None = None

    def _release(self) -> None:
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def drop_cached(self) -> None:
        super().drop_cached()
        self._release()

    def _open(self, start: int) -> ReadAheadReader:
        with self._lock:
            if self._reader is None:
                context, stop = self._context, start + self.size
                self._reader = ReadAheadReader(
                    context.blocks, context.read_ahead_budget, start, stop
                )
            return self._reader

    def _read(self, offset: int, size: int) -> Buffer:
        if self.size != self.member.compressed_size:
            raise CorruptData(
                f"{self.member.path}: stored without compression, but the index has two sizes"
            )
        if self._start is None and offset:
            self._context.headers.prefetch_at(self.member, offset)
        start = self._locate()
        reader = self._open(start)
        if self.size > BLOCK:
            return reader.read_at(start + offset, min(size, self.size - offset))
        whole = reader.read_at(start, self.size)
        if (crc := crc32(whole)) != self.member.crc32:
            raise wrong_crc(self.member, crc)
        return whole[offset : offset + size]

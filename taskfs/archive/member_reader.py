"""Random reads of one member: how its bytes are decoded, and whether they are right."""

import struct
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from taskfs.archive.decoders import STORED, crc32, decode_whole
from taskfs.archive.index import Member
from taskfs.archive.integrity import Coverage
from taskfs.archive.read_pattern import is_bulk
from taskfs.archive.seekable_decoder import SeekableDecoder
from taskfs.cache.memory_cache import BLOCK, Extent
from taskfs.cache.readahead import HEAD, ReadAheadReader
from taskfs.errors import CorruptData
from taskfs.support.buffers import Buffer

if TYPE_CHECKING:
    from taskfs.archive.archive import Archive

LOCAL: Final = struct.Struct("<4s5H3L2H")  # local file header, APPNOTE 4.3.7
LOCAL_MAGIC: Final = b"PK\x03\x04"
# Extra fields are longer in local headers than in the directory; this much is usually enough.
EXTRA_GUESS: Final = 64
# What comes with the local header for who is to read on: a member of up to so much as a whole.
WHOLE: Final = 16 * BLOCK
EAGER: Final = 4 * BLOCK
MAX_PIECE: Final = 16 * BLOCK


class CompressedStream:
    """The compressed bytes of a member for one cursor, in pieces of whole blocks that grow."""

    def __init__(self, archive: "Archive", start: int, stop: int, fed: int) -> None:
        self._stream = ReadAheadReader(archive.blocks, archive.engine.windows, start + fed, stop)
        self._blocks = archive.blocks
        self._start = start
        self._stop = stop
        self._length = BLOCK

    def piece(self, offset: int) -> Buffer:
        at = self._start + offset
        length, self._length = self._length, min(MAX_PIECE, 2 * self._length)
        return self._stream.read_some(at, min(self._stop - at, length - at % BLOCK))

    def is_cached(self, offset: int) -> bool:
        at = self._start + offset
        return self._blocks.is_cached(at, min(self._stop, at + 1))

    def close(self) -> None:
        self._stream.close()


class MemberIntegrity:
    """What was handed out of one member through all its handles, and whether it proved wrong.

    They share the kernel's pages: who reads a part from there and the rest through a handle of its
    own has read the whole member, and that handle cannot tell. Safe for concurrent use.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._lock = threading.Lock()
        self._coverage = Coverage(member.size)
        self._is_out = False  # whether there are bytes outside that no checksum has confirmed
        self.damage: CorruptData | None = None

    def add(self, offset: int, piece: Buffer, crc: int) -> None:
        """Note that *piece* is to be handed out; CorruptData if it completes a wrong whole."""
        with self._lock:
            self._is_out = not add_checked(self._coverage, self._member, offset, piece, crc)

    def fail(self, damage: CorruptData, *, is_out: bool) -> bool:
        """Note that wrong bytes were met; return whether that is for good: some may be outside.

        *is_out* tells that the handle that met them has handed some out, whatever others confirmed.
        """
        with self._lock:
            self._coverage.clear()
            if self._is_out or is_out:
                self.damage = damage
            return self._is_out or is_out


def add_checked(coverage: Coverage, member: Member, offset: int, piece: Buffer, crc: int) -> bool:
    """Add *piece*, whose CRC-32 is *crc*, to what was seen of *member*: is that all, and right?

    What is all is forgotten, so that a second pass is checked too. CorruptData where it is wrong.
    """
    coverage.add(offset, piece, crc)
    whole = coverage.crc
    if whole is None:
        return False
    coverage.clear()
    if whole != member.crc32:
        raise wrong_crc(member, whole)
    return True


def wrong_crc(member: Member, crc: int) -> CorruptData:
    return CorruptData(f"{member.path}: CRC-32 {crc:08x}, not {member.crc32:08x}")


class MemberReader(ABC):
    """Random reads of one member through one open handle; safe for concurrent use.

    A failure that shows wrong bytes drops what was cached of the member. It is tried once more as
    long as no unconfirmed byte of the member was handed out; after that the handles that are open
    fail for good, and the next one starts anew.
    """

    def __init__(self, archive: "Archive", member: Member) -> None:
        self.archive = archive
        self.member = member
        self.size = member.size
        self._lock = threading.Lock()
        self._start: int | None = None
        self._coverage = Coverage(member.size)
        self._is_out = False  # whether this handle's own bytes wait for their checksum
        self._reached = 0  # the end of what was read, as far as it goes
        self._check = self._find_check()

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size) of the member, fewer only at its end.

        Raises:
            CorruptData: a checksum, size or header that does not match (EIO).
            StaleObject, NotFound, Unavailable, …: as `RemoteObject.fetch_range`.
        """
        piece = self.read_for_push(offset, size)
        self._reached = max(self._reached, offset + len(piece))
        if piece and offset + len(piece) >= self.size:
            self.archive.passed(self.member)
        return piece

    def read_for_push(self, offset: int, size: int) -> Buffer:
        """As `read_at`, but nobody has asked: it tells nothing of how the member is read."""
        if not self.size:
            self._check_empty()
        if offset >= self.size:
            return b""
        if self._check.damage is not None:
            raise CorruptData(str(self._check.damage))
        try:
            piece = self._read_checked(offset, size)
        except CorruptData as exc:
            self._start_again()
            if self._check.fail(exc, is_out=self._is_out):
                # The kernel repeats a read-ahead that failed: it must not come out well then.
                self.archive.forget_check(self.member)
                raise
            try:
                piece = self._read_checked(offset, size)
            except CorruptData as again:
                self._start_again()
                self._check.fail(again, is_out=self._is_out)
                raise
        return piece

    def take_pushable(self) -> range:
        """Return the bytes that a reader in order wants next and that cost no wait: told once."""
        return range(0)

    def close(self) -> None:
        """Give up what only this handle holds."""
        self._let_go()
        if 0 < self._reached <= min(HEAD, self.size - 1):
            self.archive.walk.is_active = False
            self.archive.heads.passed(self.member.header_offset)
        if self.size and not self._reached:
            self.archive.not_read(self.member)

    def _let_go(self) -> None:  # noqa: B027 - not every method holds something
        """Give up what the next read would make anew."""

    def _find_check(self) -> MemberIntegrity:
        return self.archive.check_of(self.member)

    def _start_again(self) -> None:
        self.archive.drop(self.member, self._start)
        with self._lock:
            self._start = None
            self._coverage.clear()

    def _check_empty(self) -> None:
        """Refuse a member that is said to hold nothing, and something."""
        member = self.member
        if member.crc32 or (member.method == STORED and member.compressed_size):
            raise CorruptData(f"{member.path}: empty, but not by its checksum or packed size")

    def _read_checked(self, offset: int, size: int) -> Buffer:
        """Return the bytes asked for; where they complete the member its CRC-32 must be right.

        It is that of the bytes handed out here, which may have been fetched at different times.
        """
        piece = self._read(offset, size)
        crc = crc32(piece)
        with self._lock:
            self._is_out = True  # also while it turns out that they are wrong
            self._is_out = not add_checked(self._coverage, self.member, offset, piece, crc)
        self._check.add(offset, piece, crc)
        return piece

    def _locate(self, wanted: int = 0) -> int:
        """Return where the member's bytes begin in the archive; looked up once."""
        start = self._start
        if start is None:
            start = self._start = self.archive.locate(self.member, wanted)
        return start

    @abstractmethod
    def _read(self, offset: int, size: int) -> Buffer:
        """Return the bytes asked for, checked as far as the method allows."""


class SmallReader(MemberReader):
    """A member that is decoded and checked as a whole, and kept by the archive for a while."""

    def _find_check(self) -> MemberIntegrity:
        return MemberIntegrity(self.member)  # nothing of it is handed out that is not checked

    def _read_checked(self, offset: int, size: int) -> Buffer:
        return self._read(offset, size)

    def _read(self, offset: int, size: int) -> Buffer:
        spans, archive = self.archive.engine.spans, self.archive
        kept = spans.find(archive.number, self.member.number)
        if kept is None:
            kept = Extent(archive.number, self.member.number, 1, self._decode())
            spans.put(kept)
        return memoryview(kept.body)[offset : offset + size]

    def take_pushable(self) -> range:
        is_wanted = not self._reached and self.archive.should_push_on_open(self.member)
        return range(self.size if is_wanted else 0)

    def _decode(self) -> Buffer:
        member = self.member
        packed = self.archive.blocks.read_at(self._locate(), member.compressed_size)
        whole = decode_whole(member.method, packed, member.size)
        if (crc := crc32(whole)) != member.crc32:
            raise wrong_crc(member, crc)
        return whole


class CompressedReader(MemberReader):
    """A member that is decoded; all its readers share one `SeekableDecoder`."""

    def __init__(self, archive: "Archive", member: Member) -> None:
        super().__init__(archive, member)
        self._inflater: SeekableDecoder | None = None

    def _let_go(self) -> None:
        with self._lock:
            inflater, self._inflater = self._inflater, None
        if inflater is not None:
            self.archive.give_back(self.member, inflater)

    def _start_again(self) -> None:
        self._let_go()
        super()._start_again()

    def take_pushable(self) -> range:
        inflater = self._inflater
        return inflater.take_pushable() if inflater is not None else range(0)

    def _take(self, wanted: int) -> SeekableDecoder:
        start = self._locate(wanted)
        with self._lock:
            if self._inflater is None:
                self._inflater = self.archive.take_inflater(self.member, start)
            return self._inflater

    def _read(self, offset: int, size: int) -> Buffer:
        packed = self.member.compressed_size
        wanted = packed if packed <= WHOLE else EAGER
        inflater = self._take(wanted if is_bulk(offset, offset + size) else 0)
        if packed <= BLOCK:
            inflater.verify()
        return inflater.read_at(offset, size)


class StoredReader(MemberReader):
    """A member that is read in place."""

    def __init__(self, archive: "Archive", member: Member) -> None:
        super().__init__(archive, member)
        self._stream: ReadAheadReader | None = None

    def _let_go(self) -> None:
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _start_again(self) -> None:
        super()._start_again()
        self._let_go()

    def _open(self, start: int) -> ReadAheadReader:
        with self._lock:
            if self._stream is None:
                stop = start + self.size
                self._stream = ReadAheadReader(
                    self.archive.blocks, self.archive.engine.windows, start, stop
                )
            return self._stream

    def _read(self, offset: int, size: int) -> Buffer:
        if self.size != self.member.compressed_size:
            raise CorruptData(f"{self.member.path}: stored, but of two sizes")
        if self._start is None and offset:
            # Where the bytes begin is known up to some extra field: both requests go out at once.
            guess = self.member.header_offset + LOCAL.size + len(self.member.raw_name) + offset
            self.archive.blocks.prefetch(guess, guess + EXTRA_GUESS)
        start = self._locate()
        stream = self._open(start)
        if self.size > BLOCK:
            return stream.read_at(start + offset, min(size, self.size - offset))
        whole = stream.read_at(start, self.size)
        if (crc := crc32(whole)) != self.member.crc32:
            raise wrong_crc(self.member, crc)
        return whole[offset : offset + size]

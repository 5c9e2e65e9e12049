"""`DecodeCursor`: one decoder on its way through the compressed data of one member."""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from taskfs.archive.decoders import Decoder, crc32
from taskfs.errors import CorruptData
from taskfs.support.buffers import Buffer, allocate

SPAN: Final = 128 << 10


class Source(Protocol):
    """The compressed bytes of one member, read forward by one cursor."""

    def piece(self, offset: int) -> Buffer:
        """Return some bytes from *offset* of the compressed data on; empty only at its end.

        They may be a view of much more: `DecodeCursor.rest` lets go of them.
        """
        ...

    def is_cached(self, offset: int) -> bool:
        """Whether the next piece, from *offset* on, need not be waited for."""
        ...

    def close(self) -> None:
        """No more pieces are wanted."""
        ...


class Checkpoint(NamedTuple):
    """A place from which a decoder can go on: where it is, what it was fed, what came out."""

    out: int  # a multiple of SPAN
    fed: int
    restore: Callable[[], Decoder]
    crc: int


class DecodeCursor:
    """Decodes forward, some spans at a time, and checks the member's size and CRC-32 at its end.

    Not safe for concurrent use: `busy` while a thread drives it, and then only that thread may.
    """

    def __init__(self, decoder: Decoder, source: Source, size: int, crc: int) -> None:
        self.source = source
        self.out = 0  # where `stretch` begins, a multiple of SPAN
        self.stretch = memoryview(b"")  # as far as `decoded`; never moved or resized
        self.decoded = 0
        self.busy = False
        self._decoder = decoder
        self._size = size
        self._expected_crc = crc
        self._fed = 0
        self._piece: Buffer = b""  # what was fed last
        self._crc = 0
        self._is_hungry = True

    @classmethod
    def at(cls, mark: Checkpoint, source: Source, size: int, crc: int) -> "DecodeCursor":
        """Return a cursor that goes on from *mark*; *source* is for what was not fed then."""
        cursor = cls(mark.restore(), source, size, crc)
        cursor.out, cursor._fed, cursor._crc = mark.out, mark.fed, mark.crc
        cursor._is_hungry = False
        return cursor

    @property
    def is_at_end(self) -> bool:
        """Whether all spans are decoded, and the member's size and CRC-32 were right."""
        return self.out >= self._size

    @property
    def may_go_on(self) -> bool:
        """Whether to decode more waits for nothing."""
        return not self._is_hungry or self.source.is_cached(self._fed)

    def advance(self, spans: int) -> memoryview | None:
        """Decode what one piece gives; return the stretch if that completed it, else None.

        A new stretch has *spans* spans, fewer only at the member's end.

        Raises:
            CorruptData: damaged data, or a size or CRC-32 that does not match at the end.
        """
        if not self.decoded:
            self.stretch = allocate(min(spans * SPAN, self._size - self.out))
        stretch = self.stretch
        if self.decoded < len(stretch):
            count, at_end = self._decode(stretch[self.decoded :])
            self.decoded += count
            if not count and (at_end or self._decoder.ended):
                reached = self.out + self.decoded
                raise CorruptData(f"the data ends after {reached} of {self._size} bytes")
            if self.decoded < len(stretch):
                return None
        crc = crc32(stretch, self._crc)
        if self.out + len(stretch) == self._size:
            self._check_end(crc)
        self._crc = crc
        return stretch

    def go_on(self) -> None:
        """Leave the stretch that `advance` returned behind."""
        self.out += len(self.stretch)
        self.decoded = 0

    def rest(self) -> None:
        """Let go of the piece fed last, of which nobody knows when the cursor will go on with it:
        what the decoder has not taken is copied, as a view would hold the whole run it came in."""
        if not isinstance(self._piece, bytes):
            self._piece = bytes(self._piece[len(self._piece) - self._decoder.unused :])
            self._decoder.feed(self._piece)

    def checkpoint(self) -> Checkpoint | None:
        """Return the present place, between two spans; None if the method's library cannot."""
        restore = self._decoder.snapshot()
        fed = self._fed - self._decoder.unused
        return None if restore is None else Checkpoint(self.out, fed, restore, self._crc)

    def _decode(self, out: memoryview) -> tuple[int, bool]:
        """Fill some of *out*; return how much, and whether there is no more input to come."""
        at_end = False
        if self._is_hungry and not self._decoder.ended:
            self.rest()  # the next piece may have to be waited for
            piece = self.source.piece(self._fed)
            at_end = not len(piece)
            if not at_end:
                self._piece = piece
                self._decoder.feed(piece)
                self._fed += len(piece)
        count = self._decoder.decode(out)
        self._is_hungry = count < len(out)
        return count, at_end

    def _check_end(self, crc: int) -> None:
        """Check that the data ends here and is what the directory says."""
        while self._decoder.marks_end and not self._decoder.ended:
            count, at_end = self._decode(memoryview(bytearray(1)))
            if count:
                raise CorruptData(f"more data than the {self._size} bytes of the directory")
            if at_end and not self._decoder.ended:
                raise CorruptData("the data ends without an end mark")
        if crc != self._expected_crc:
            raise CorruptData(f"CRC-32 {crc:08x} instead of {self._expected_crc:08x}")

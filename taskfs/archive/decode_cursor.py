"""`DecodeCursor`: decodes the compressed data of one member, forward from one position."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from taskfs.archive.bounds import SPAN
from taskfs.archive.decoders import Decoder
from taskfs.errors import CorruptData
from taskfs.support.buffers import Buffer, allocate
from taskfs.support.checksum import crc32


class CompressedSource(Protocol):
    """The compressed bytes of one member, read forward by one cursor."""

    def piece(self, offset: int) -> Buffer:
        """Return some bytes from *offset* of the compressed data on; empty only at its end.

        They may be a view of a much larger buffer: `DecodeCursor.release_input` copies the rest.
        """
        ...

    def is_cached(self, offset: int) -> bool:
        """Whether the next piece, from *offset* on, is in memory."""
        ...

    def close(self) -> None:
        """Note that no more pieces are wanted."""
        ...


class Checkpoint(NamedTuple):
    """A copy of a decoder's state, from which decoding can continue."""

    output_offset: int  # decoded bytes before it, a multiple of SPAN
    input_offset: int  # compressed bytes before it
    restore: Callable[[], Decoder]
    crc: int  # CRC-32 of the decoded bytes before the restored state
    skip: int = 0  # decoded bytes between the restored state and `output_offset`
    is_from_disk: bool = False  # it comes from the disk cache


class PassedRange:
    """The decoded bytes [begin, end) that one cursor has passed. Not safe for concurrent use."""

    __slots__ = ("begin", "crc", "end")

    def __init__(self, begin: int) -> None:
        self.begin = self.end = begin
        self.crc: int | None = None  # CRC-32 of the decoded bytes before it, once known


class DecodeCursor:
    """Decodes forward, some spans at a time, and checks the member's size and CRC-32 at its end.

    Not safe for concurrent use: the thread that set `busy` is the only one that may use it.
    """

    def __init__(self, decoder: Decoder, source: CompressedSource, size: int, crc: int) -> None:
        self.source = source
        self.passed = PassedRange(0)
        self.output_offset = 0  # where `output` begins, a multiple of SPAN
        self.output = memoryview(b"")  # filled up to `decoded`; never moved or resized
        self.decoded = 0
        self.busy = False
        self.is_from_disk = False  # it began at a checkpoint from the disk cache
        self._decoder = decoder
        self._size = size
        self._expected_crc = crc
        self._input_offset = 0
        self._input: Buffer = b""  # the piece that was fed last
        self._crc = 0
        self._skip = 0  # decoded bytes before `output_offset` that come first
        self._needs_input = True

    @classmethod
    def at(
        cls, checkpoint: Checkpoint, source: CompressedSource, size: int, crc: int
    ) -> "DecodeCursor":
        """Return a cursor that continues from *checkpoint*; *source* has the bytes after it."""
        cursor = cls(checkpoint.restore(), source, size, crc)
        cursor.output_offset, cursor._input_offset, cursor._crc, cursor._skip = (
            checkpoint.output_offset,
            checkpoint.input_offset,
            checkpoint.crc,
            checkpoint.skip,
        )
        cursor.passed = PassedRange(checkpoint.output_offset)
        cursor.is_from_disk = checkpoint.is_from_disk
        cursor._needs_input = False
        return cursor

    @property
    def is_at_end(self) -> bool:
        """Whether all spans are decoded, and the member's size and CRC-32 are right."""
        return self.output_offset >= self._size

    @property
    def has_input(self) -> bool:
        """Whether the next step waits for no fetch."""
        return not self._needs_input or self.source.is_cached(self._input_offset)

    def advance(self, spans: int) -> memoryview | None:
        """Decode one piece of compressed bytes; return the output if it is now complete, else None.

        A new output has *spans* spans, fewer only at the member's end.

        Raises:
            CorruptData: damaged data, or a size or CRC-32 that does not match at the end.
        """
        if self._skip:
            self._skip_some()
            if self._skip:
                return None
        if self.passed.crc is None:
            self.passed.crc = self._crc
        if not self.decoded:
            self.output = allocate(min(spans * SPAN, self._size - self.output_offset))
        output = self.output
        if self.decoded < len(output):
            count, at_end = self._decode(output[self.decoded :])
            self.decoded += count
            if not count and (at_end or self._decoder.reached_end):
                reached = self.output_offset + self.decoded
                raise CorruptData(f"the data ends after {reached} of {self._size} bytes")
            if self.decoded < len(output):
                return None
        crc = crc32(output, self._crc)
        if self.output_offset + len(output) == self._size:
            self._check_end(crc)
        self._crc = crc
        return output

    def _skip_some(self) -> None:
        """Decode one piece of compressed bytes, at most up to the end of the bytes to skip."""
        skipped = memoryview(bytearray(self._skip))
        count, at_end = self._decode(skipped)
        self._crc = crc32(skipped[:count], self._crc)
        self._skip -= count
        if not count and (at_end or self._decoder.reached_end):
            raise CorruptData("the data ends before its checkpoint")

    def check(self, following: PassedRange) -> None:
        """Raise CorruptData unless the cursor arrives where *following* begins with its CRC-32."""
        if following.crc is not None and following.crc != self._crc:
            raise CorruptData(
                f"CRC-32 {self._crc:08x} before byte {following.begin}, not {following.crc:08x}"
            )

    def commit(self) -> None:
        """Move to the end of the output that `advance` returned."""
        self.output_offset += len(self.output)
        self.passed.end = self.output_offset
        self.decoded = 0

    def release_input(self) -> None:
        """Copy the input that is left, because a view of it would keep the whole run in memory."""
        if not isinstance(self._input, bytes):
            self._input = bytes(self._input[len(self._input) - self._decoder.unconsumed :])
            self._decoder.feed(self._input)

    def checkpoint(self) -> Checkpoint | None:
        """Return the present state, between two spans; None if the method's library cannot."""
        restore = self._decoder.snapshot()
        input_offset = self._input_offset - self._decoder.unconsumed
        return (
            None
            if restore is None
            else Checkpoint(self.output_offset, input_offset, restore, self._crc)
        )

    def _decode(self, out: memoryview) -> tuple[int, bool]:
        """Fill some of *out*; return how much, and whether the compressed data has ended."""
        at_end = False
        if self._needs_input and not self._decoder.reached_end:
            self.release_input()  # the next piece may have to be fetched
            piece = self.source.piece(self._input_offset)
            at_end = not len(piece)
            if not at_end:
                self._input = piece
                self._decoder.feed(piece)
                self._input_offset += len(piece)
        count = self._decoder.decode(out)
        self._needs_input = count < len(out)
        return count, at_end

    def _check_end(self, crc: int) -> None:
        """Raise CorruptData unless the data ends here and matches the central directory."""
        while self._decoder.has_end_marker and not self._decoder.reached_end:
            count, at_end = self._decode(memoryview(bytearray(1)))
            if count:
                raise CorruptData(f"more data than the {self._size} bytes of the directory")
            if at_end and not self._decoder.reached_end:
                raise CorruptData("the data ends without an end mark")
        if crc != self._expected_crc:
            raise CorruptData(f"CRC-32 {crc:08x} instead of {self._expected_crc:08x}")

"""`BlockStart`: a position in DEFLATE data at which any decoder can begin.

It is a checkpoint that outlives the process and its libraries. Because a block begins there, it
needs no state of a decoder: only the position, and the decoded bytes before it to which the block
may refer. A `Checkpoint` in memory may lie within a block, and holds the state of one library.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

from taskfs.archive import isal
from taskfs.archive.bounds import SPAN
from taskfs.archive.decode_cursor import Checkpoint, CompressedSource
from taskfs.archive.decoders import Decoder
from taskfs.errors import CorruptData
from taskfs.support.buffers import Buffer
from taskfs.support.checksum import crc32

# Decoded bytes after a checkpoint within which the next block must begin. Most blocks of zlib
# decode to some 100 KB, and those of zeros to 4 MiB.
SEARCH: Final = 4 << 20


class BlockStart(NamedTuple):
    """The start of a block of DEFLATE data."""

    output_offset: int  # decoded bytes before it
    bit_offset: int  # compressed bits before it
    bits: int  # the first bits after it, up to the next whole byte
    crc: int  # CRC-32 of the decoded bytes before it
    window: bytes  # the last of these bytes, at most `isal.WINDOW`

    def checkpoint(self) -> Checkpoint | None:
        """Return a checkpoint at the next span; None if the library of decoders is missing."""
        make = isal.make_decoder()
        if make is None:
            return None

        def restore() -> Decoder:
            decoder = make()
            decoder.start_at_block(self.window, self.bits, -self.bit_offset % 8)
            return decoder

        at = -(-self.output_offset // SPAN) * SPAN
        skip = at - self.output_offset
        return Checkpoint(at, -(-self.bit_offset // 8), restore, self.crc, skip, is_from_disk=True)


def find_block_start(
    checkpoint: Checkpoint, before: Buffer, open_source: Callable[[int], CompressedSource]
) -> BlockStart | None:
    """Return the first start of a block after *checkpoint*.

    *before* are the decoded bytes before it. Return None if the compressed bytes that are in memory
    do not reach far enough, if the present block is the last one, and without ISA-L.
    """
    decoder = checkpoint.restore()
    if not isinstance(decoder, isal.BlockDecoder):
        return None
    stop = checkpoint.input_offset
    if not decoder.is_between_blocks:
        if not decoder.stop_after_block():
            return None
        first = _Search(decoder, checkpoint, open_source)
        if not first.run():
            return None
        # The library tells the byte in which the block ends, and not the bit. A decoder that gets
        # no byte after it stops before the header of the next block.
        stop = first.fed - decoder.unread_bits // 8
        decoder = checkpoint.restore()
        assert isinstance(decoder, isal.BlockDecoder)
    second = _Search(decoder, checkpoint, open_source, stop)
    window = bytearray(before[-isal.WINDOW :])
    crc = checkpoint.crc

    def keep(piece: memoryview) -> None:
        nonlocal crc
        crc = crc32(piece, crc)
        window.extend(piece)
        del window[: -isal.WINDOW]

    if not second.run(keep):
        return None
    return BlockStart(
        checkpoint.output_offset + second.count,
        8 * second.fed - decoder.unread_bits,
        decoder.unread_head,
        crc,
        bytes(window),
    )


class _Search:
    """Decodes from a checkpoint to the end of a block; feeds only compressed bytes before *stop*.

    Not safe for concurrent use.
    """

    def __init__(
        self,
        decoder: isal.BlockDecoder,
        checkpoint: Checkpoint,
        open_source: Callable[[int], CompressedSource],
        stop: int | None = None,
    ) -> None:
        self.fed = checkpoint.input_offset
        self.count = 0  # decoded bytes
        self._decoder = decoder
        self._open_source = open_source
        self._stop = stop

    def run(self, keep: Callable[[memoryview], None] = lambda piece: None) -> bool:
        """Decode; pass the decoded bytes to *keep*. Return whether the end of a block is found."""
        decoder, out = self._decoder, memoryview(bytearray(isal.WINDOW))
        while self.count <= SEARCH:
            decoded = decoder.decode(out)
            self.count += decoded
            keep(out[:decoded])
            if decoded == len(out):
                continue
            if decoder.is_between_blocks:
                return True
            piece = self._piece()
            if not len(piece):
                return False
            decoder.feed(piece)
            self.fed += len(piece)
        return False

    def _piece(self) -> Buffer:
        """Return the next compressed bytes; empty if they are not in memory, or after the stop."""
        # A new source for each piece, because a source that is read on fetches ahead.
        source = self._open_source(self.fed)
        try:
            piece = source.piece(self.fed) if source.is_cached(self.fed) else b""
        finally:
            source.close()
        return piece if self._stop is None else piece[: self._stop - self.fed]


@functools.cache
def can_find_block_starts() -> bool:
    """Whether ISA-L is there, and data that goes on at a block start decodes correctly."""
    make = isal.make_decoder()
    if make is None:
        return False
    plain = b"".join(b"%d %s\n" % (number, b"x" * (number % 60)) for number in range(4000))
    packer = zlib.compressobj(1, zlib.DEFLATED, -15, 3)
    packed = packer.compress(plain) + packer.flush()
    try:
        for position in (9001, 33_000):
            decoder, before = make(), memoryview(bytearray(position))
            decoder.feed(packed)
            decoder.decode(before)
            at = len(packed) - decoder.unconsumed
            checkpoint = Checkpoint(position, at, decoder.snapshot(), zlib.crc32(plain[:position]))
            start = find_block_start(checkpoint, before, lambda fed: _Packed(packed))
            if start is None or not _goes_on(start, packed, plain):
                return False
    except CorruptData:
        return False
    return True


class _Packed:
    """Compressed bytes in memory; implements `CompressedSource`."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def piece(self, offset: int) -> Buffer:
        return self._packed[offset : offset + 1000]

    def is_cached(self, offset: int) -> bool:
        return True

    def close(self) -> None:
        pass


def _goes_on(start: BlockStart, packed: bytes, plain: bytes) -> bool:
    checkpoint = start.checkpoint()
    assert checkpoint is not None
    decoder, rest = checkpoint.restore(), memoryview(bytearray(len(plain)))
    decoder.feed(packed[checkpoint.input_offset :])
    count = decoder.decode(rest)
    return rest[:count] == plain[start.output_offset :] and decoder.reached_end

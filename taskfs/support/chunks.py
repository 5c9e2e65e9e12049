"""Reading a long range in chunks."""

from collections.abc import Callable, Iterator
from typing import Final

from taskfs.errors import CorruptData
from taskfs.support.buffers import Buffer

# Bytes per read: one read-ahead chunk of a decoder, so memory stays small at full speed.
CHUNK_BYTES: Final = 1 << 20


def read_chunks(read_at: Callable[[int, int], Buffer], start: int, stop: int) -> Iterator[Buffer]:
    """Yield the bytes [start, stop) as *read_at* (offset, size) returns them, in order.

    Raises:
        CorruptData: the source ends before *stop*.
    """
    while start < stop:
        chunk = read_at(start, min(CHUNK_BYTES, stop - start))
        if not chunk:
            raise CorruptData(
                f"{stop - start} bytes are missing at its end: the archive is damaged"
            )
        yield chunk
        start += len(chunk)

"""Reading a long range in chunks."""

from collections.abc import Callable, Iterator
from typing import Final

from taskfs.errors import CorruptData
from taskfs.support.buffers import Buffer

# Bytes per read: eight spans of a decoder. Less costs more calls, more takes more memory.
CHUNK_BYTES: Final = 1 << 20


def read_chunks(read_at: Callable[[int, int], Buffer], start: int, stop: int) -> Iterator[Buffer]:
    """Yield the bytes [start, stop) as *read_at* (offset, size) returns them, in order.

    Raises:
        CorruptData: the source ends before *stop*.
    """
    while start < stop:
        chunk = read_at(start, min(CHUNK_BYTES, stop - start))
        if not chunk:
            raise CorruptData(f"{stop - start} bytes are missing at the end of the file")
        yield chunk
        start += len(chunk)

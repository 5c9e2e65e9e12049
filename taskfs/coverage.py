"""The CRC-32 of a member that is read in place, in whatever order its pieces come."""

from bisect import bisect_left
from functools import lru_cache
from typing import Final

from taskfs.buffers import Buffer
from taskfs.decoders import crc32

_POLYNOMIAL: Final = 0xEDB88320  # CRC-32, reflected (APPNOTE 4.4.7)
MAX_PIECES: Final = 256


def _multiply(a: int, b: int) -> int:
    """Return a * b modulo the polynomial, bit 31 being the constant term."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=1024)
def _shift(length: int) -> int:
    """Return x to the power of 8 * *length* modulo the polynomial."""
    result, factor = 1 << 31, 1 << 23  # x^0 and x^8
    while length:
        if length & 1:
            result = _multiply(factor, result)
        factor = _multiply(factor, factor)
        length >>= 1
    return result


def combine(first: int, second: int, second_length: int) -> int:
    """Return the CRC-32 of two pieces in a row from their own and the second one's length."""
    return _multiply(_shift(second_length), first) ^ second


class Coverage:
    """What of [0, size) was seen, and its CRC-32 as far as the pieces touch.

    Not safe for concurrent use. Pieces beyond `MAX_PIECES` that touch nothing are not kept: a
    reader that jumps about is not checked, and costs no memory.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._crcs: list[int] = []

    def clear(self) -> None:
        """Forget all that was seen."""
        self._starts, self._stops, self._crcs = [], [], []

    def add(self, start: int, piece: Buffer) -> None:
        """Note that *piece* is what stands at *start*; what was seen before does not count."""
        stop = start + len(piece)
        at = start
        while at < stop:
            place = bisect_left(self._starts, at + 1)  # the first one behind `at`
            if place and self._stops[place - 1] > at:
                at = self._stops[place - 1]
                continue
            end = min(stop, self._starts[place]) if place < len(self._starts) else stop
            self._insert(place, at, end, crc32(piece[at - start : end - start]))
            at = end

    def _insert(self, place: int, start: int, stop: int, crc: int) -> None:
        joins_left = place > 0 and self._stops[place - 1] == start
        joins_right = place < len(self._starts) and self._starts[place] == stop
        if joins_left:
            self._crcs[place - 1] = combine(self._crcs[place - 1], crc, stop - start)
            self._stops[place - 1] = stop
            if joins_right:
                length = self._stops[place] - self._starts[place]
                self._crcs[place - 1] = combine(self._crcs[place - 1], self._crcs[place], length)
                self._stops[place - 1] = self._stops[place]
                del self._starts[place], self._stops[place], self._crcs[place]
        elif joins_right:
            length = self._stops[place] - self._starts[place]
            self._crcs[place] = combine(crc, self._crcs[place], length)
            self._starts[place] = start
        elif len(self._starts) < MAX_PIECES:
            self._starts.insert(place, start)
            self._stops.insert(place, stop)
            self._crcs.insert(place, crc)

    @property
    def crc(self) -> int | None:
        """The CRC-32 of everything once all of [0, size) was seen, else None."""
        whole = self._starts == [0] and self._stops == [self._size]
        return self._crcs[0] if whole else None

"""The CRC-32 of a member that is read in place, in whatever order its pieces come."""

from array import array
from bisect import bisect_left
from functools import lru_cache
from typing import Final

from taskfs.archive.decoders import crc32
from taskfs.support.buffers import Buffer

_POLYNOMIAL: Final = 0xEDB88320  # CRC-32, reflected (APPNOTE 4.4.7)
MAX_PIECES: Final = 256


@lru_cache(maxsize=64)
def _zeros(power: int) -> "array[int]":
    """Return what 2***power* zero bytes make of a CRC-32: of each of its bytes, lowest first, one
    table of 256. The map is linear, so the results are to be combined by exclusive or."""
    images = []
    for bit in range(32):
        image = 1 << bit
        if power:
            for _ in range(2):
                image = _after(image, _zeros(power - 1))
        else:
            for _ in range(8):
                image = image >> 1 ^ (_POLYNOMIAL if image & 1 else 0)
        images.append(image)
    table = array("I", [0])
    for low in range(0, 32, 8):
        part = [0]
        for image in images[low : low + 8]:
            part += [image ^ other for other in part]
        table[low * 32 :] = array("I", part)
    return table


def _after(crc: int, zeros: "array[int]") -> int:
    return (
        zeros[crc & 255]
        ^ zeros[256 + (crc >> 8 & 255)]
        ^ zeros[512 + (crc >> 16 & 255)]
        ^ zeros[768 + (crc >> 24)]
    )


def combine(first: int, second: int, second_length: int) -> int:
    """Return the CRC-32 of two pieces in a row from their own and the second one's length."""
    while second_length:
        bit = second_length & -second_length
        first = _after(first, _zeros(bit.bit_length() - 1))
        second_length ^= bit
    return first ^ second


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

    def add(self, start: int, piece: Buffer, crc: int | None = None) -> None:
        """Note that *piece* is what stands at *start*, with its CRC-32 where that is known.

        What was seen before does not count.
        """
        stop = start + len(piece)
        at = start
        while at < stop:
            place = bisect_left(self._starts, at + 1)  # the first one behind `at`
            if place and self._stops[place - 1] > at:
                at = self._stops[place - 1]
                continue
            end = min(stop, self._starts[place]) if place < len(self._starts) else stop
            if crc is None or end - at < len(piece):
                crc = crc32(piece[at - start : end - start])
            self._insert(place, at, end, crc)
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

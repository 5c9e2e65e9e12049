"""`PackedIds`: the ids of many tasks in one string."""

import zlib
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, overload

SEPARATOR: Final = "/"  # no id holds it, because ids are names of directories
DIGEST_CHARS: Final = 1 << 18  # characters that are split into ids together


class PackedIds(Sequence[str]):
    """Ids in order. Immutable.

    One takes 26 bytes instead of some 90 in a tuple, because the account may have a million.
    """

    __slots__ = ("_count", "_joined", "_starts", "_width")

    def __init__(self, joined: str = "") -> None:
        self._joined = joined
        self._count = joined.count(SEPARATOR) + 1 if joined else 0
        self._width = len(joined.partition(SEPARATOR)[0]) + 1
        self._starts: array[int] | None = None
        marks = joined[self._width - 1 :: self._width]
        if len(marks) != self._count - 1 or marks.strip(SEPARATOR):  # of different lengths
            self._starts = array("Q", [0])
            for task_id in joined.split(SEPARATOR) if joined else ():
                self._starts.append(self._starts[-1] + len(task_id) + 1)

    def __len__(self) -> int:
        return self._count

    @property
    def digest(self) -> int:
        """The sum of the CRC-32 of all ids; it does not depend on their order."""
        total, start = 0, 0
        while start < len(self._joined):
            stop = self._joined.find(SEPARATOR, start + DIGEST_CHARS)
            stop = len(self._joined) if stop < 0 else stop
            ids = self._joined[start:stop].encode().split(SEPARATOR.encode())
            total += sum(map(zlib.crc32, ids))
            start = stop + 1
        return total

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedIds):
            return self._joined == other._joined
        return isinstance(other, tuple) and tuple(self) == other

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> list[str]: ...
    def __getitem__(self, position: int | slice) -> str | list[str]:
        if not isinstance(position, slice):
            return self._at(range(self._count)[position])
        return [self._at(each) for each in range(*position.indices(self._count))]

    def __iter__(self) -> Iterator[str]:
        if self._starts is not None:
            return (self._joined[start : stop - 1] for start, stop in pairwise(self._starts))
        return map(self._at, range(self._count))

    def _at(self, position: int) -> str:
        if self._starts is None:
            start = position * self._width
            return self._joined[start : start + self._width - 1]
        return self._joined[self._starts[position] : self._starts[position + 1] - 1]

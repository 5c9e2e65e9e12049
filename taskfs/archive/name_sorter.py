"""Sorting the hashes of the names of an index in little memory.

A row has 64 bits: the hash of a name in the upper half, the id of its child below.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from taskfs.archive.index_layout import count_bucket_bits
from taskfs.cache.spill_file import SpillFile

# The upper bits of a hash that choose a partition: of 8 million names, each has 125,000.
PARTITION_BITS: Final = 6
PARTITIONS: Final = 1 << PARTITION_BITS
ROW_BYTES: Final = 8
_MAX_ROW: Final = (1 << 64) - 1
# Rows that are sorted in memory at once, which takes 50 bytes for each. Only names that are equal
# make a larger partition.
MAX_ROWS: Final = 1 << 18


class NameSorter:
    """Sorts rows by partitions, in a temporary file.

    Rows are added to the array in *latest* for the upper `PARTITION_BITS` of the hash, and
    `flush` is called from time to time. Not safe for concurrent use.
    """

    def __init__(self, file: SpillFile) -> None:
        self.latest = [array("Q") for _ in range(PARTITIONS)]
        self._file = file
        self._parts: list[list[tuple[int, int]]] = [[] for _ in range(PARTITIONS)]

    def flush(self) -> None:
        """Move the latest rows to the file."""
        for rows, parts in zip(self.latest, self._parts, strict=True):
            parts.append(self._store(rows))
            del rows[:]

    def add(self, rows: Iterable[int]) -> None:
        """Add rows."""
        latest = self.latest
        for row in rows:
            latest[row >> 64 - PARTITION_BITS].append(row)

    def sort(self) -> "Iterator[array[int]]":
        """Yield all rows, sorted, in parts; `sorted_parts` then yields them again."""
        for rows, parts in zip(self.latest, self._parts, strict=True):
            if not parts:
                rows[:] = array("Q", sorted(rows))
                yield rows
                continue
            found = [*parts, self._store(rows)]
            del rows[:], parts[:]
            for part in self._sort(found):
                parts.append(self._store(part))
                yield part

    def _sort(self, parts: list[tuple[int, int]]) -> "Iterator[array[int]]":
        """Yield the rows of *parts*, sorted, at most `MAX_ROWS` at once."""
        if sum(stop - start for start, stop in parts) <= MAX_ROWS * ROW_BYTES:
            yield array("Q", sorted(chain.from_iterable(map(self._load, parts))))
            return
        # Divide them by the first bits that are not the same in all rows.
        first = min(min(self._load(part), default=_MAX_ROW) for part in parts)
        last = max(max(self._load(part), default=0) for part in parts)
        shift = max(0, (first ^ last).bit_length() - PARTITION_BITS)
        divided: list[list[tuple[int, int]]] = [[] for _ in range(PARTITIONS)]
        for part in parts:
            latest = [array("Q") for _ in range(PARTITIONS)]
            for row in self._load(part):
                latest[row >> shift & PARTITIONS - 1].append(row)
            for rows, found in zip(latest, divided, strict=True):
                if rows:
                    found.append(self._store(rows))
        for found in filter(None, divided):
            yield from self._sort(found)

    def sorted_parts(self) -> "Iterator[array[int]]":
        """Yield the sorted rows in parts."""
        for rows, parts in zip(self.latest, self._parts, strict=True):
            yield from map(self._load, parts)
            yield rows

    def _store(self, rows: "array[int]") -> tuple[int, int]:
        at = self._file.size
        self._file.append(rows.tobytes())
        return at, self._file.size

    def _load(self, part: tuple[int, int]) -> "array[int]":
        rows = array("Q")
        rows.frombytes(self._file[slice(*part)])
        return rows


def fill_buckets(
    parts: "Iterable[array[int]]", names: int, bucket_at: "array[int]"
) -> "Iterator[array[int]]":
    """Yield *parts*, the sorted rows of at most *names* names, and fill *bucket_at*.

    *bucket_at* has the first position of each bucket once all parts are taken.
    """
    bits = count_bucket_bits(names)
    count = 0
    for rows in parts:
        while rows and (first := len(bucket_at) << 64 - bits) <= rows[-1]:
            bucket_at.append(count + bisect_left(rows, first))
        count += len(rows)
        yield rows
    bucket_at.extend([count] * ((1 << bits) + 1 - len(bucket_at)))

"""`PartRead`: the part of a member that a handle has read, and where it lies in the archive."""

from typing import NamedTuple

from taskfs.archive.bounds import FIRST_FETCH_BYTES, HEAD_BYTES, WHOLE_MEMBER
from taskfs.archive.decoders import STORED
from taskfs.archive.local_header import EXTRA_GUESS, guess_data_start
from taskfs.archive.member import Member
from taskfs.archive.read_pattern import is_long_first_read
from taskfs.cache.block import BLOCK


def first_fetch_bytes(member: Member) -> int:
    """Return how many compressed bytes a long first read of *member* fetches."""
    packed = member.compressed_size
    return packed if packed <= WHOLE_MEMBER else FIRST_FETCH_BYTES


class PartRead(NamedTuple):
    """The bytes [start, stop) that one handle has read of *member*; some between may be unread."""

    member: Member
    start: int
    stop: int

    def of(self, other: Member) -> "PartRead":
        """Return the part of *other* that the same program reads.

        It is counted from the end if that was reached, because the sizes of logs differ.
        """
        start, stop, size = self.start, self.stop, other.size
        if stop >= self.member.size:
            start = size - max(HEAD_BYTES, self.member.size - start) if start else 0
            stop = size
        return PartRead(other, min(max(0, start), size), min(stop, size))

    def ranges(self) -> list[range]:
        """Return the ranges of the archive that hold the part, with the local header: a guess."""
        member, begin = self.member, guess_data_start(self.member)
        if member.method == STORED:
            data = range(begin - EXTRA_GUESS + self.start, begin + self.stop)
            if self.start <= BLOCK:
                return [range(member.header_offset, data.stop)]
            return [range(member.header_offset, begin), data]
        packed = member.compressed_size
        if packed > BLOCK and self.stop < member.size:
            is_long = is_long_first_read(self.start, self.stop)
            fetched = first_fetch_bytes(member) if is_long else 0
            decoded = packed * self.stop // member.size + HEAD_BYTES
            packed = min(packed, max(fetched, decoded))
        return [range(member.header_offset, begin + packed)]

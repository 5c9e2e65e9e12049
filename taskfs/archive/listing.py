"""The table of an archive's files, in the format of the public client.

An index has the table's length, and where every `STEP`-th line begins. So a part of the table is
rendered without the rest, and its size without any of it.
"""

from bisect import bisect_right
from functools import lru_cache
from typing import Final

from taskfs.archive.index import ArchiveIndex
from taskfs.archive.member import Member
from taskfs.support.formatting import escape_controls, format_size

# Lines between two whose offsets are known: few enough to render for each read.
STEP: Final = 256


def render_line(member: Member) -> bytes:
    """Return the line of one member."""
    line = (
        f"  {format_size(member.size):<12} {format_size(member.compressed_size):<12} "
        f"{escape_controls(member.path)}\n"
    )
    return line.encode("utf-8", "surrogateescape")


def line_length(path: str, size: int, compressed_size: int) -> int:
    """Return the length of `render_line` in bytes, at a fraction of its cost."""
    if not (path.isascii() and path.isprintable()):
        path = escape_controls(path).encode("utf-8", "surrogateescape").decode("latin-1")
    return 5 + _width(size) + _width(compressed_size) + len(path)


@lru_cache(maxsize=4096)
def _width(size: int) -> int:
    return max(12, len(format_size(size)))


class Listing:
    """The table of the files of one archive of *archive_size* bytes, as a sequence of bytes.

    Only the lines of a slice are rendered.
    """

    def __init__(self, archive_size: int, index: ArchiveIndex) -> None:
        head = (
            f"Archive size: {format_size(archive_size)}\n"
            f"Contents:\n  {'Size':<12} {'Compressed':<12} Name\n"
        )
        self._head = head.encode()
        self._index = index

    def __len__(self) -> int:
        return len(self._head) + self._index.head.listing_bytes

    def __getitem__(self, part: slice) -> bytes:
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError("the parts of a listing are contiguous")
        pieces = [self._head[start:stop]]
        size = len(self._head)
        start, stop = max(0, start - size), stop - size
        if start < stop:
            pieces.append(self._lines(start, stop))
        return b"".join(pieces)

    def _lines(self, start: int, stop: int) -> bytes:
        offsets = self._index.tables["listing_at"]
        nearest = bisect_right(offsets, start) - 1
        at = offsets[nearest]
        lines = []
        for number in range(nearest * STEP, len(self._index.members)):
            if at >= stop:
                break
            line = render_line(self._index.member(number))
            if at + len(line) > start:
                lines.append(line[max(0, start - at) : stop - at])
            at += len(line)
        return b"".join(lines)

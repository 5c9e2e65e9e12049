"""The columns of the members of an archive while its index is built.

Most of their rows are in a temporary file, so the memory that a build takes hardly grows with the
archive.
"""

from array import array
from collections.abc import Iterator
from itertools import chain, compress
from typing import Final

from taskfs.archive.index_layout import Code
from taskfs.cache.spill_file import SpillFile

# Rows of a group, which goes to the file at once.
GROUP: Final = 1 << 14
# The columns by name, with the type codes of their items.
_CODES: Final[dict[str, Code]] = {
    "entry_at": "I",
    "number": "I",
    "parent": "I",
    "start": "Q",
    "time": "q",
    "line": "I",  # the length of its line in the listing
}


class MemberColumns:
    """The columns of the members in the order of their entries.

    Append to each of the arrays in *latest*, then call `flush_group` if they have `GROUP` rows. Not
    safe for concurrent use.
    """

    def __init__(self, file: SpillFile) -> None:
        self.latest = {name: array(code) for name, code in _CODES.items()}
        self._file = file
        self._groups = 0  # in the file

    def flush_group(self) -> None:
        """Move the latest rows, `GROUP` of them, to the file."""
        for column in self.latest.values():
            self._file.append(column.tobytes())
            del column[:]
        self._groups += 1

    def parts(self, name: str) -> "Iterator[array[int]]":
        """Yield a column in parts of up to `GROUP` rows."""
        for group in range(self._groups):
            part = array(_CODES[name])
            at = self._offset(group, name)
            part.frombytes(self._file[at : at + GROUP * part.itemsize])
            yield part
        yield self.latest[name]

    def shown_parts(self, name: str, is_shown: bytearray) -> "Iterator[array[int]]":
        """Yield a column in parts, without the members for which *is_shown* is 0."""
        at = 0
        for part in self.parts(name):
            are_shown = is_shown[at : at + len(part)]
            at += len(part)
            yield part if 0 not in are_shown else array(part.typecode, compress(part, are_shown))

    def items(self, name: str) -> Iterator[int]:
        """Yield a column item by item."""
        return chain.from_iterable(self.parts(name))

    def item(self, name: str, number: int) -> int:
        """Return one item of a column."""
        group, row = divmod(number, GROUP)
        latest = self.latest[name]
        if group == self._groups:
            return latest[row]
        at = self._offset(group, name) + row * latest.itemsize
        found = array(_CODES[name], self._file[at : at + latest.itemsize])
        return found[0]

    def _offset(self, group: int, name: str) -> int:
        """Return where the column's part in a group begins in the file."""
        before = row_bytes = 0
        for other, column in self.latest.items():
            if other == name:
                before = row_bytes
            row_bytes += column.itemsize
        return GROUP * (group * row_bytes + before)

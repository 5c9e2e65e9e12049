"""`hide_equal_names`: of the members of an archive with equal names, the last one is shown."""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import chain
from operator import xor
from typing import Final

from taskfs.archive.index_layout import CHILD, FOLDER

_NO_ROW: Final = 1 << 64  # differs from each row in the hash


def hide_equal_names(
    parts: "Iterable[array[int]]",
    path_of: Callable[[int], tuple[int, bytes]],
    is_shown: bytearray,
) -> "array[int]":
    """Set the item of *is_shown* to 0 for each member that a later one replaces.

    *parts* hold all rows of `NameSorter`, sorted; *path_of* returns the parent and the name of a
    child. Names are compared where the hashes are equal: members in the archive's order, then
    folders.

    Return each member that has the name of a folder, and this folder, in turn.
    """
    shadowed = array("I")
    members: dict[tuple[int, bytes], int] = {}  # with the hash `compared`
    compared = -1

    def compare(rows: Iterable[int]) -> None:
        for row in rows:
            child = row & CHILD
            path = path_of(child)
            if child & FOLDER:
                if path in members:
                    shadowed.extend((members[path], child ^ FOLDER))
            else:
                if path in members:
                    is_shown[members[path]] = 0
                members[path] = child

    last = _NO_ROW  # of the parts before
    for rows in parts:
        stop = 0
        for at, difference in enumerate(map(xor, rows, chain((last,), rows))):
            if difference <= CHILD and at >= stop:  # the hash is that of the row before
                before = rows[at - 1] if at else last
                if compared != before >> 32:
                    compared = before >> 32
                    members.clear()
                    compare((before,))
                stop = bisect_left(rows, (before | CHILD) + 1)
                compare(rows[at:stop])
        last = rows[-1] if rows else last
    return shadowed

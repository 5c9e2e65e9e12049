"""The folders of an index while it is built.

They are found by a hash table with a slot of 64 bits for each name: its hash in the upper half, and
the folder's id plus one below; 0 if it is free. A name lies in the first slot after its hash that
was free.
"""

import mmap
from array import array
from collections.abc import Iterator
from typing import Any, Final

from taskfs.archive.index_layout import FOLDER, NO_TIME, NameHash
from taskfs.errors import Unsupported

NAME_MAX: Final = 255  # bytes of a file name, Linux's limit
# Directories of an archive, in addition to one for each member. A name of 64 KB can make 32,000
# directories, so an archive of 1 MB could fill the memory.
MAX_FOLDERS: Final = 500_000
# Characters of paths whose folders are remembered: neighbours mostly share their folder.
MAX_REMEMBERED: Final = 256 << 10


class FolderBuilder:
    """The folders that the entries of a directory name, each with an id; 0 is the root.

    Not safe for concurrent use.
    """

    def __init__(self, hashing: NameHash) -> None:
        self.parent = array("I", (0,))
        self.time = array("q", (NO_TIME,))  # of its own entry
        self.first_entry = array("q", (-1,))  # of itself or of a folder beneath it
        self.names = bytearray()
        self.name_at = array("I", (0, 0))
        self._slots = _new_slots(0)
        self._hash = hashing
        self._remembered: dict[str, int | None] = {}  # by path; None: the path cannot be shown
        self._characters = 0
        self._entries = 0

    def __len__(self) -> int:
        return len(self.parent)

    def find(self, path: str, members: int) -> int | None:
        """Return the folder at *path*, made if need be; None if a component is no file name.

        *members* is the number of entries so far.

        Raises:
            Unsupported: there are too many folders.
        """
        if not path:
            return 0
        if path in self._remembered:
            return self._remembered[path]
        names = path.split("/")
        max_folders = MAX_FOLDERS + members
        found = self._make(names, max_folders) if all(map(is_file_name, names)) else None
        self._characters += len(path)
        if self._characters > MAX_REMEMBERED:
            self._remembered.clear()
            self._characters = len(path)
        self._remembered[path] = found
        return found

    def _make(self, names: list[str], max_folders: int) -> int:
        folder = 0
        for name in names:
            encoded = name.encode()
            hashed = self._hash.of(folder, encoded)
            child = next(
                (
                    number
                    for number in _find_slots(self._slots, hashed)
                    if self.parent[number] == folder and self.name(number) == encoded
                ),
                None,
            )
            if child is None:
                child = self._add(folder, encoded, hashed)
                if child > max_folders:
                    raise Unsupported(f"the archive has more than {max_folders} directories")
            folder = child
        return folder

    def _add(self, parent: int, name: bytes, hashed: int) -> int:
        number = len(self.parent)
        self.parent.append(parent)
        self.time.append(NO_TIME)
        self.first_entry.append(-1)
        self.names += name
        self.name_at.append(len(self.names))
        if 3 * number > 2 * len(self._slots):
            self._grow(number)
        _put_slot(self._slots, hashed, number)
        return number

    def _grow(self, count: int) -> None:
        old, self._slots = self._slots, _new_slots(2 * count)
        for slot in old:
            if slot:
                _put_slot(self._slots, slot >> 32, (slot & 0xFFFFFFFF) - 1)

    def name_rows(self) -> Iterator[int]:
        """Yield the row of `name_rows` for each folder but the root; see `index_layout`."""
        return (slot - 1 | FOLDER for slot in self._slots if slot)

    def name(self, number: int) -> bytes:
        """Return the last component of a folder's path, in UTF-8."""
        return bytes(self.names[self.name_at[number] : self.name_at[number + 1]])

    def add_entry(self, folder: int, mtime_ns: int) -> None:
        """Note the entry of a folder; of two entries the last one's time counts."""
        self.time[folder] = mtime_ns
        while self.first_entry[folder] < 0:
            self.first_entry[folder] = self._entries
            folder = self.parent[folder]
        self._entries += 1


def _new_slots(count: int) -> Any:
    """Return a hash table for *count* names, of which at least a third is free."""
    length = 8
    while 2 * length < 3 * count:
        length *= 2
    return memoryview(mmap.mmap(-1, 8 * length)).cast("Q")


def _find_slots(slots: Any, hashed: int) -> Iterator[int]:
    """Yield the ids whose names have this hash."""
    mask = len(slots) - 1
    at = hashed & mask
    while slot := slots[at]:
        if slot >> 32 == hashed:
            yield (slot & 0xFFFFFFFF) - 1
        at = at + 1 & mask


def _put_slot(slots: "memoryview[int]", hashed: int, number: int) -> None:
    """Put an id into the first free slot for its hash."""
    mask = len(slots) - 1
    at = hashed & mask
    while slots[at]:
        at = at + 1 & mask
    slots[at] = hashed << 32 | number + 1


def is_file_name(name: str) -> bool:
    """Whether *name* can be shown."""
    if name in ("", ".", "..") or "\0" in name:
        return False
    return len(name) <= 63 or len(name.encode("utf-8", "surrogateescape")) <= NAME_MAX

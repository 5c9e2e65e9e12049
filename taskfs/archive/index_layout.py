"""The layout of an index: the central directory, and tables of its members and folders.

The tables are arrays of integers, in the order of `TABLES`. The index of an archive is one sealed
file with this content, of which a process reads no more than it needs.

A member or folder has an id, its position in the tables; that of a folder has the bit `FOLDER`. The
id for a name in a folder is found by a hash of both. The rows of `name_rows` hold this hash in
their upper 32 bits and the id below, and are sorted. So the names whose hashes have the same upper
bits, a bucket, are neighbours: there are some `BUCKET_NAMES` of them.
"""

import hashlib
import os
import struct
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, overload

import msgspec

from taskfs.archive.end_record import EndRecord
from taskfs.cache.sealed_file import SUM_PAGE, SUM_PAGE_SHIFT, Content, SealedFile
from taskfs.model import ObjectVersion

KIND: Final = b"taskfs member index 4\n"
_HEAD_LENGTH: Final = 4  # bytes of the head's length, at the end of the content

SALT: Final = 16  # bytes of the key of the hash, so that no archive can choose colliding names
FOLDER: Final = 1 << 31  # set in the id of a folder
CHILD: Final = 0xFFFFFFFF  # the bits of a row of `name_rows` that hold the id
NO_TIME: Final = -(1 << 63)
BUCKET_NAMES: Final = 32  # names of a bucket at most, on average: more make a smaller table

Code = Literal["B", "I", "Q", "q"]

# The tables by name, with the type codes of their items.
TABLES: Final[dict[str, Code]] = {
    "entry_at": "I",  # of each member: the offset of its entry in the directory
    "number": "I",  # of each member: its position in the directory
    "parent": "I",  # of each member: its folder
    "start": "Q",  # of each member: the offset of its local header
    "folder_name_at": "I",  # of each folder: its name's offset in `names`; one more at the end
    "folder_parent": "I",
    "folder_time": "q",
    "name_rows": "Q",
    "bucket_at": "I",  # of each bucket: its first position in `name_rows`; one more at the end
    "child_at": "I",  # of each folder: its first position in `children`; one more at the end
    "children": "I",  # ids in the order of the listing
    "listing_at": "Q",  # see `archive.listing`
    "names": "B",  # of the folders, in UTF-8
}


class Head(msgspec.Struct):
    """The fields that an index stores about itself."""

    version: ObjectVersion
    end: EndRecord
    root: str
    is_from_windows: bool
    are_starts_sorted: bool
    salt: str  # hexadecimal
    listing_bytes: int
    counts: dict[str, int]  # items of each table
    byte_order: str = sys.byteorder


def encode_head(head: Head) -> bytes:
    """Return the end of an index, which follows its tables."""
    encoded = msgspec.json.encode(head)
    return encoded + len(encoded).to_bytes(_HEAD_LENGTH, "little")


def decode_head(content: Content) -> Head | None:
    """Return the head of an index, or None if another version of taskfs wrote it."""
    stop = len(content) - _HEAD_LENGTH
    if stop < 0:
        return None
    length = int.from_bytes(content[stop : len(content)], "little")
    try:
        head = msgspec.json.decode(content[max(0, stop - length) : stop], type=Head)
    except msgspec.MsgspecError:
        return None
    if head.byte_order != sys.byteorder or list(head.counts) != list(TABLES):
        return None
    return head


_ITEM_BYTES: Final = {"B": 1, "I": 4, "Q": 8, "q": 8}


class FileColumn(Sequence[int]):
    """A table of integers in a sealed file, from the offset *start* on. Immutable."""

    __slots__ = ("_bytes", "_code", "_count", "_file", "_start", "_unpack")

    def __init__(self, file: SealedFile, start: int, count: int, code: Code) -> None:
        self._file = file
        self._start = start  # a multiple of the item's length, so that no item lies on two pages
        self._count = count
        self._code = code
        self._bytes = _ITEM_BYTES[code]
        self._unpack = struct.Struct(f"={code}").unpack_from

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, position: int) -> int: ...
    @overload
    def __getitem__(self, position: slice) -> "memoryview[int]": ...
    def __getitem__(self, position: int | slice) -> "int | memoryview[int]":
        if isinstance(position, slice):
            start, stop, _ = position.indices(self._count)
            first = self._start + start * self._bytes
            content = self._file[first : first + max(0, stop - start) * self._bytes]
            return memoryview(content).cast(self._code)
        at = self._start + range(self._count)[position] * self._bytes
        number: int = self._unpack(self._file.page(at >> SUM_PAGE_SHIFT), at & SUM_PAGE - 1)[0]
        return number


def open_tables(content: Content, head: Head) -> dict[str, Any]:
    """Return the tables of an index by name, as sequences whose slices are memory views."""
    at = _aligned(head.end.stop - head.end.start)
    tables: dict[str, Any] = {}
    for name, code in TABLES.items():
        count = head.counts[name]
        stop = at + count * _ITEM_BYTES[code]
        if isinstance(content, bytes):
            tables[name] = memoryview(content)[at:stop].cast(code)
        else:
            tables[name] = FileColumn(content, at, count, code)
        at = _aligned(stop)
    return tables


def _aligned(size: int) -> int:
    return -(-size // 8) * 8


class NameHash:
    """The 32-bit hash of a name in a folder, for one index."""

    def __init__(self, salt: bytes) -> None:
        self.salt = salt
        self._seeded = hashlib.blake2b(digest_size=4, key=salt)

    @classmethod
    def new(cls) -> "NameHash":
        """Return a hash that no archive was made for."""
        return cls(os.urandom(SALT))

    def of_folder(self, folder: int) -> "hashlib.blake2b":
        """Return the state of the hash for names in *folder*: copy it and add the name."""
        state = self._seeded.copy()
        state.update(b"%d/" % folder)
        return state

    def of(self, folder: int, name: bytes) -> int:
        """Return the hash of *name* in *folder*."""
        state = self.of_folder(folder)
        state.update(name)
        return int.from_bytes(state.digest(), "little")


def count_bucket_bits(names: int) -> int:
    """Return how many upper bits of a hash choose its bucket, for this number of names."""
    return (names // BUCKET_NAMES).bit_length()


def find_children(tables: dict[str, Any], hashed: int) -> Iterator[int]:
    """Yield the ids whose names have this hash."""
    starts = tables["bucket_at"]
    bucket = hashed * (len(starts) - 1) >> 32  # there are a power of two of them
    rows = tables["name_rows"][starts[bucket] : starts[bucket + 1]]
    for at in range(bisect_left(rows, hashed << 32), len(rows)):
        if rows[at] >> 32 != hashed:
            return
        yield rows[at] & CHILD

"""Building the index of an archive in one pass over its central directory.

The pass keeps some 50 bytes for each member. The names stay in the directory, which is written to a
file if it is long.
"""

import logging
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from operator import le
from typing import Any, Final

from taskfs.archive.central_directory import parse_entry
from taskfs.archive.directory_parser import (
    STRIDE,
    excludes_windows,
    first_name,
    has_windows_separators,
    read_rows,
)
from taskfs.archive.end_record import EndRecord
from taskfs.archive.folder_builder import FolderBuilder, is_file_name
from taskfs.archive.folder_order import date_folders, first_members, list_children
from taskfs.archive.index import ArchiveIndex, open_index
from taskfs.archive.index_layout import (
    GONE,
    KIND,
    TABLES,
    Head,
    NameHash,
    encode_head,
    find_slots,
    new_slots,
)
from taskfs.archive.listing import STEP, line_length
from taskfs.cache.sealed_file import SealedWriter
from taskfs.errors import CorruptData, Unsupported
from taskfs.model import ObjectVersion
from taskfs.support.buffers import Buffer

log = logging.getLogger(__name__)

MAX_ENTRIES: Final = 8_000_000  # fewer than inode numbers have room for: `nodes.NUMBER_BITS`
MAX_SIZE: Final = (1 << 63) - 1  # off_t
MAX_WARNINGS: Final = 10  # lines in the log for the members that one archive leaves out


def build_index(
    writer: SealedWriter,
    pieces: Iterable[Buffer],
    version: ObjectVersion,
    end: EndRecord,
    root: str,
) -> ArchiveIndex:
    """Return the index of the files beneath *root* (such as `artifacts/`), and write it.

    *pieces* are the central directory, the bytes [end.start, end.stop) of the object. Each is
    parsed before the next one is taken. Members whose names cannot be shown are left out and
    logged; of two equal names, the last one wins.

    Raises:
        CorruptData: the directory is cut short or damaged.
        Unsupported: it has too many entries or directories.
    """
    return _Builder(writer, version, end, root).run(pieces)


def read_index(directory: bytes, end: EndRecord, root: str) -> ArchiveIndex:
    """Return the index of a central directory in memory; see `build_index`."""
    return build_index(SealedWriter(), [directory], ObjectVersion(end.stop, ""), end, root)


class _Builder:
    """One pass over one directory."""

    def __init__(
        self, writer: SealedWriter, version: ObjectVersion, end: EndRecord, root: str
    ) -> None:
        self._writer = writer
        self._version = version
        self._end = end
        self._root = root
        self._is_from_windows = False
        self._hash = NameHash.new()
        self._folders = FolderBuilder(self._hash)
        self._slots = new_slots(0)
        # The columns of the members, in the order of their entries.
        self._entry_at = array("I")
        self._number = array("I")
        self._parent = array("I")
        self._start = array("Q")
        self._time = array("q")
        self._line = array("I")  # the length of its line in the listing
        self._hashed = array("I")
        self._is_gone = bytearray()
        self._left_out = 0

    def run(self, pieces: Iterable[Buffer]) -> ArchiveIndex:
        folders = self._folders
        self._read_members(self._store(pieces))
        self._fill_slots()
        if all(self._is_gone) and folders.first_entry[0] < 0:
            self._log_nothing_shown()
        first_member = first_members(self._parent, self._is_gone, folders.parent)
        self._remove_shadowed(first_member)
        children, child_at = list_children(self._parent, self._is_gone, folders, first_member)
        date_folders(self._parent, self._is_gone, self._time, folders)
        self._compact()
        return self._write(children, child_at)

    def _store(self, pieces: Iterable[Buffer]) -> Iterator[Buffer]:
        """Return the pieces, each of which is written before it is parsed.

        If the first one does not show whether backslashes separate components, all are written
        first.
        """
        pieces = iter(pieces)
        first = next(pieces, b"")
        self._writer.write(first)
        if excludes_windows([first]):
            return chain((first,), map(self._write_piece, pieces))
        for piece in pieces:
            self._writer.write(piece)
        self._is_from_windows = has_windows_separators(self._stored())
        return self._stored()

    def _write_piece(self, piece: Buffer) -> Buffer:
        self._writer.write(piece)
        return piece

    def _stored(self) -> Iterator[bytes]:
        """Yield the directory as it was written."""
        length = self._writer.size
        return (self._writer[at : min(at + STRIDE, length)] for at in range(0, length, STRIDE))

    def _read_members(self, pieces: Iterable[Buffer]) -> None:
        """Collect the members and folders, and leave out what cannot be shown."""
        folders, parent_path, parent = self._folders, "", 0
        state = self._hash.of_folder(parent)
        add_entry_at, add_number = self._entry_at.append, self._number.append
        add_parent, add_start = self._parent.append, self._start.append
        add_time, add_line = self._time.append, self._line.append
        add_hash, add_gone = self._hashed.append, self._is_gone.append
        rows = read_rows(pieces, self._end.shift, self._root, is_from_windows=self._is_from_windows)
        for number, at, path, size, compressed, start, mtime_ns, _ in rows:
            if number >= MAX_ENTRIES:
                raise Unsupported(f"the archive has more than {MAX_ENTRIES} members")
            folder_path, slash, name = path.rpartition("/")
            is_large = size > MAX_SIZE or compressed > MAX_SIZE
            if not name:
                self._add_folder(path, mtime_ns, number, is_large=is_large)
                continue
            if folder_path != parent_path:
                found = folders.find(folder_path, number)
                if found is None:
                    self._leave_out(path)
                    continue
                parent_path, parent = folder_path, found
                state = self._hash.of_folder(parent)
            is_absolute = slash and not folder_path
            if is_absolute or not is_file_name(name):
                self._leave_out(path)
                continue
            if is_large:  # it replaces an earlier member of its name, and is then not shown
                self._leave_out(path)
            hashing = state.copy()
            hashing.update(name.encode())
            add_hash(int.from_bytes(hashing.digest(), "little"))
            add_entry_at(at)
            add_number(number)
            add_parent(parent)
            add_start(start)
            add_time(mtime_ns)
            add_line(line_length(path, size, compressed))
            add_gone(is_large)
        if self._left_out > MAX_WARNINGS:
            log.warning("archive: %d members are left out for their names or sizes", self._left_out)

    def _add_folder(self, path: str, mtime_ns: int, number: int, *, is_large: bool) -> None:
        """Note the entry of a folder; *path* is empty for the root, or ends in a slash."""
        found: int | None = 0
        if path:
            is_shown = not is_large and path != "/"
            found = self._folders.find(path[:-1], number) if is_shown else None
        if found is None:
            self._leave_out(path)
        else:
            self._folders.add_entry(found, mtime_ns)

    def _fill_slots(self) -> None:
        """Make the hash table of the members; of two equal names the first one is gone."""
        parents = self._parent
        slots = self._slots = new_slots(len(parents))
        mask = len(slots) - 1
        for number, hashed in enumerate(self._hashed):
            position = hashed & mask
            while slot := slots[position]:
                if slot >> 32 == hashed:
                    other = (slot & GONE) - 1
                    if parents[other] == parents[number] and self._have_one_name(other, number):
                        self._is_gone[other] = 1
                        break
                position = position + 1 & mask
            slots[position] = hashed << 32 | number + 1
        self._hashed = array("I")

    def _leave_out(self, path: str) -> None:
        self._left_out += 1
        if self._left_out <= MAX_WARNINGS:
            log.warning("archive: a member is left out for its name or size: %.300r", path)

    def _have_one_name(self, first: int, second: int) -> bool:
        return self._name(first) == self._name(second)

    def _name(self, number: int) -> str:
        member = parse_entry(
            *(self._writer, self._entry_at[number], self._end.shift, self._root),
            self._number[number],
            is_from_windows=self._is_from_windows,
        )
        return member.path.rpartition("/")[2]

    def _log_nothing_shown(self) -> None:
        """Log why an archive that has members shows none of them."""
        if self._left_out:
            log.warning("archive: every member beneath %s is left out", self._root)
        elif (first := first_name(self._stored())) is not None:
            log.warning(
                "archive: no member lies beneath %s, the first is %.300r", self._root, first
            )

    def _remove_shadowed(self, first_member: "array[int]") -> None:
        """Remove the members at the paths of folders that are shown."""
        folders, count = self._folders, 0
        for folder in range(1, len(folders)):
            if first_member[folder] < 0 and folders.first_entry[folder] < 0:
                continue
            parent, name = folders.parent[folder], folders.name(folder)
            for number in find_slots(self._slots, self._hash.of(parent, name)):
                is_same = self._parent[number] == parent and self._name(number) == name.decode()
                if is_same and not self._is_gone[number]:
                    self._is_gone[number] = 1
                    count += 1
                    # The folder takes the member's position in the listing.
                    if not 0 <= first_member[folder] <= number:
                        first_member[folder] = number
        if count:
            log.warning("archive: %d files that are also directories are left out", count)

    def _compact(self) -> None:
        """Remove the members that are gone from the columns, and renumber the others."""
        if not any(self._is_gone):
            return
        new = array("I")
        shown = 0
        for is_gone in self._is_gone:
            new.append(shown)
            shown += not is_gone
        for name in ("_entry_at", "_number", "_parent", "_start", "_line"):
            column = getattr(self, name)
            kept = array(column.typecode)
            kept.extend(
                item for item, is_gone in zip(column, self._is_gone, strict=True) if not is_gone
            )
            setattr(self, name, kept)
        slots = self._slots
        for position, slot in enumerate(slots):
            if slot:
                number = (slot & GONE) - 1
                renumbered = GONE if self._is_gone[number] else new[number] + 1
                slots[position] = slot & ~GONE | renumbered

    def _write(self, children: "array[int]", child_at: "array[int]") -> ArchiveIndex:
        folders = self._folders
        listing_at, listing_bytes = array("Q"), 0
        for number, length in enumerate(self._line):
            if number % STEP == 0:
                listing_at.append(listing_bytes)
            listing_bytes += length
        starts = self._start
        tables: dict[str, Any] = {
            "entry_at": self._entry_at,
            "number": self._number,
            "parent": self._parent,
            "start": starts,
            "member_slots": self._slots,
            "folder_name_at": folders.name_at,
            "folder_parent": folders.parent,
            "folder_time": folders.time,
            "folder_slots": folders.slots,
            "child_at": child_at,
            "children": children,
            "listing_at": listing_at,
            "names": folders.names,
        }
        head = Head(
            version=self._version,
            end=self._end,
            root=self._root,
            is_from_windows=self._is_from_windows,
            are_starts_sorted=all(map(le, starts, islice(starts, 1, None))),
            salt=self._hash.salt.hex(),
            listing_bytes=listing_bytes,
            counts={name: len(tables[name]) for name in TABLES},
        )
        for name in TABLES:
            self._writer.align()
            self._writer.write(memoryview(tables[name]).cast("B"))
        self._writer.align()
        self._writer.write(encode_head(head))
        index = open_index(self._writer.seal(KIND), self._root)
        if index is None:
            raise CorruptData("the index of the archive cannot be read back")
        return index

"""Building the index of an archive in one pass over its central directory.

The pass keeps some 50 bytes for each member. The names stay in the directory, which is mapped if it
is long.
"""

import logging
from array import array
from typing import Any, Final

from taskfs.archive.central_directory import (
    count_entries,
    first_raw_name,
    has_windows_separators,
    parse_entry,
    read_entries,
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
from taskfs.archive.member import Member
from taskfs.cache.sealed_file import SealedWriter
from taskfs.errors import CorruptData, Unsupported
from taskfs.model import ObjectVersion

log = logging.getLogger(__name__)

MAX_ENTRIES: Final = 8_000_000  # fewer than inode numbers have room for: `nodes.NUMBER_BITS`
MAX_SIZE: Final = (1 << 63) - 1  # off_t
MAX_WARNINGS: Final = 10  # lines in the log for the members that one archive leaves out


def build_index(
    writer: SealedWriter, version: ObjectVersion, end: EndRecord, root: str
) -> ArchiveIndex:
    """Return the index of the files beneath *root* (such as `artifacts/`), and write it.

    *writer* has the central directory, the bytes [end.start, end.stop) of the object. Members whose
    names cannot be shown are left out and logged; of two equal names, the last one wins.

    Raises:
        CorruptData: the directory is cut short or damaged.
        Unsupported: it has too many entries or directories.
    """
    return _Builder(writer, version, end, root).run()


def read_index(directory: bytes, end: EndRecord, root: str) -> ArchiveIndex:
    """Return the index of a central directory in memory; see `build_index`."""
    writer = SealedWriter()
    writer.write(directory)
    return build_index(writer, ObjectVersion(end.stop, ""), end, root)


class _Builder:
    """One pass over one directory."""

    def __init__(
        self, writer: SealedWriter, version: ObjectVersion, end: EndRecord, root: str
    ) -> None:
        self._writer = writer
        self._version = version
        self._end = end
        self._root = root
        self._length = end.stop - end.start
        self._directory = writer.view()
        count = count_entries(self._directory, self._length)
        if count > MAX_ENTRIES:
            raise Unsupported(f"the archive has more than {MAX_ENTRIES} members")
        self._is_from_windows = has_windows_separators(self._directory, self._length)
        self._hash = NameHash.new()
        self._folders = FolderBuilder(self._hash, count)
        self._slots = new_slots(count)
        # The columns of the members, in the order of their entries.
        self._entry_at = array("I")
        self._number = array("I")
        self._parent = array("I")
        self._start = array("Q")
        self._time = array("q")
        self._line = array("I")  # the length of its line in the listing
        self._is_gone = bytearray()
        self._left_out = 0

    def run(self) -> ArchiveIndex:
        folders = self._folders
        self._read_members()
        if all(self._is_gone) and folders.first_entry[0] < 0:
            self._log_nothing_shown()
        first_member = first_members(self._parent, self._is_gone, folders.parent)
        self._remove_shadowed(first_member)
        children, child_at = list_children(self._parent, self._is_gone, folders, first_member)
        date_folders(self._parent, self._is_gone, self._time, folders)
        self._compact()
        return self._write(children, child_at)

    def _read_members(self) -> None:
        """Collect the members and folders, and leave out what cannot be shown."""
        folders = self._folders
        parent_path, parent = "", 0
        state = self._hash.of_folder(parent)
        entries = read_entries(
            *(self._directory, self._length, self._end, self._root),
            is_from_windows=self._is_from_windows,
        )
        for at, member in entries:
            path = member.path
            is_large = member.size > MAX_SIZE or member.compressed_size > MAX_SIZE
            if not path:
                folders.add_entry(0, member.mtime_ns)
                continue
            if path.endswith("/"):
                folder = None if is_large or path == "/" else folders.find(path[:-1])
                if folder is None:
                    self._leave_out(path)
                else:
                    folders.add_entry(folder, member.mtime_ns)
                continue
            folder_path, slash, name = path.rpartition("/")
            found: int | None = parent
            if folder_path != parent_path:
                found = folders.find(folder_path)
                if found is not None:
                    parent_path, parent = folder_path, found
                    state = self._hash.of_folder(parent)
            is_absolute = slash and not folder_path
            if found is None or is_absolute or not is_file_name(name):
                self._leave_out(path)
                continue
            hashing = state.copy()
            hashing.update(name.encode())
            hashed = int.from_bytes(hashing.digest(), "little")
            if is_large:
                self._leave_out(path)
                self._replace(hashed, parent, name, GONE)
            else:
                self._replace(hashed, parent, name, len(self._entry_at) + 1)
                self._append(at, member, parent)
        if self._left_out > MAX_WARNINGS:
            log.warning("archive: %d members are left out for their names or sizes", self._left_out)

    def _leave_out(self, path: str) -> None:
        self._left_out += 1
        if self._left_out <= MAX_WARNINGS:
            log.warning("archive: a member is left out for its name or size: %.300r", path)

    def _append(self, at: int, member: Member, parent: int) -> None:
        self._entry_at.append(at)
        self._number.append(member.number)
        self._parent.append(parent)
        self._start.append(member.header_offset)
        self._time.append(member.mtime_ns)
        self._line.append(line_length(member))
        self._is_gone.append(0)

    def _replace(self, hashed: int, parent: int, name: str, slot_id: int) -> None:
        """Remove the member of this name, if there is one, and give its slot *slot_id*.

        `GONE` for a name that is new changes nothing.
        """
        slots = self._slots
        mask = len(slots) - 1
        place = hashed & mask
        while slot := slots[place]:
            if slot >> 32 == hashed and slot & GONE != GONE:
                number = (slot & GONE) - 1
                if self._parent[number] == parent and self._name(number) == name:
                    self._is_gone[number] = 1
                    break
            place = place + 1 & mask
        if slot or slot_id != GONE:
            slots[place] = hashed << 32 | slot_id

    def _name(self, number: int) -> str:
        member = parse_entry(
            *(self._directory, self._entry_at[number], self._end.shift, self._root),
            self._number[number],
            is_from_windows=self._is_from_windows,
        )
        return member.path.rpartition("/")[2]

    def _log_nothing_shown(self) -> None:
        """Log why an archive that has members shows none of them."""
        if self._left_out:
            log.warning("archive: every member beneath %s is left out", self._root)
        elif (first := first_raw_name(self._directory, self._length)) is not None:
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
            hashed = self._hash.of(parent, name)
            for number in find_slots(self._slots, hashed):
                if self._parent[number] == parent and self._name(number) == name.decode():
                    self._replace(hashed, parent, name.decode(), GONE)
                    count += 1
                    # The folder takes the member's place in the listing.
                    if not 0 <= first_member[folder] <= number:
                        first_member[folder] = number
                    break
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
        for place, slot in enumerate(slots):
            if slot and slot & GONE != GONE:
                slots[place] = slot & ~GONE | new[(slot & GONE) - 1] + 1

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
            are_starts_sorted=all(map(int.__le__, starts, starts[1:])),
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

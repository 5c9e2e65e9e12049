"""Building the index of an archive in one pass over its central directory.

A build takes some 5 bytes of memory for each member. The rest is in files if the archive is large:
the directory, with the names, and the columns of the members. `index_layout` explains the tables
and their words (child, bucket), `member_columns` and `name_sorter` how rows are collected (latest,
partition), `folder_builder` the columns of the folders.
"""

import logging
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain, islice, pairwise, starmap
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
from taskfs.archive.equal_names import hide_equal_names
from taskfs.archive.folder_builder import FolderBuilder, is_file_name
from taskfs.archive.folder_order import date_folders, first_members, list_children
from taskfs.archive.index import ArchiveIndex, open_index
from taskfs.archive.index_layout import (
    CHILD,
    FOLDER,
    KIND,
    TABLES,
    Head,
    NameHash,
    encode_head,
)
from taskfs.archive.listing import STEP, line_length
from taskfs.archive.member_columns import GROUP, MemberColumns
from taskfs.archive.name_sorter import PARTITION_BITS, NameSorter, fill_buckets
from taskfs.cache.sealed_file import SealedWriter
from taskfs.errors import CorruptData, Unsupported
from taskfs.model import ObjectVersion
from taskfs.support.buffers import Buffer

log = logging.getLogger(__name__)

MAX_ENTRIES: Final = 8_000_000  # fewer than inode numbers have room for: `nodes.NUMBER_BITS`
MAX_SIZE: Final = (1 << 63) - 1  # off_t
# Lines in the log for the members that one archive leaves out: more would hide other messages.
MAX_WARNINGS: Final = 10


def build_index(
    writer: SealedWriter,
    pieces: Iterable[Buffer],
    version: ObjectVersion,
    end: EndRecord,
    root: str,
    archive_path: str = "archive",
) -> ArchiveIndex:
    """Return the index of the files beneath *root* (such as `artifacts/`), and write it.

    *pieces* are the central directory, the bytes [end.start, end.stop) of the object. Each is
    parsed before the next one is taken. Members whose names cannot be shown are left out and
    logged as those of *archive_path*; of two equal names, the last one wins.

    Raises:
        CorruptData: the directory is cut short or damaged.
        Unsupported: it has too many entries or directories.
    """
    return _Builder(writer, version, end, root, archive_path).run(pieces)


def read_index(directory: bytes, end: EndRecord, root: str) -> ArchiveIndex:
    """Return the index of a central directory in memory; see `build_index`."""
    return build_index(SealedWriter(), [directory], ObjectVersion(end.stop, ""), end, root)


class _Builder:
    """One pass over one directory."""

    def __init__(
        self,
        writer: SealedWriter,
        version: ObjectVersion,
        end: EndRecord,
        root: str,
        archive_path: str,
    ) -> None:
        self._writer = writer
        self._version = version
        self._end = end
        self._root = root
        self._archive_path = archive_path  # for the log
        self._is_from_windows = False
        self._hash = NameHash.new()
        self._folders = FolderBuilder(self._hash)
        self._files = [writer.open_scratch(), writer.open_scratch()]
        self._columns = MemberColumns(self._files[0])
        self._names = NameSorter(self._files[1])
        self._is_shown = bytearray()  # by member: 1 or 0
        self._left_out = 0

    def run(self, pieces: Iterable[Buffer]) -> ArchiveIndex:
        try:
            return self._run(pieces)
        finally:
            for file in self._files:
                file.discard()

    def _run(self, pieces: Iterable[Buffer]) -> ArchiveIndex:
        folders, columns, is_shown = self._folders, self._columns, self._is_shown
        parts = self._store(iter(pieces))
        self._read_members(parts)
        # The parser stops at a digital signature. Take the remaining parts too, because that writes
        # them, and the tables come after them.
        for _ in parts:
            pass
        self._names.add(folders.name_rows())
        # Each member at the path of a folder, and this folder, in turn.
        shadowed = hide_equal_names(self._names.sort(), self._path, is_shown)
        if not any(is_shown) and folders.first_entry[0] < 0:  # neither a member nor a folder
            self._log_nothing_shown()
        first_member = first_members(columns.items("parent"), is_shown, folders.parent)
        self._remove_shadowed(shadowed, first_member)
        children, child_at = list_children(
            lambda: columns.items("parent"), is_shown, folders, first_member
        )
        date_folders(columns.items("parent"), columns.items("time"), is_shown, folders)
        return self._write(children, child_at, first_member)

    def _store(self, pieces: Iterator[Buffer]) -> Iterator[bytes]:
        """Write the pieces, and return the directory in parts that are read back, so that no memory
        holds a piece.

        If the first one does not show whether backslashes separate components, all are written
        first.
        """
        self._writer.write(first := next(pieces, b""))
        if excludes_windows([first]):
            return chain(self._stored(), self._store_rest(pieces))
        for piece in pieces:
            self._writer.write(piece)
        self._is_from_windows = has_windows_separators(self._stored())
        return self._stored()

    def _store_rest(self, pieces: Iterator[Buffer]) -> Iterator[bytes]:
        """Write each piece, and yield it in parts once it is written."""
        for piece in pieces:
            start = self._writer.size
            self._writer.write(piece)
            del piece
            yield from self._stored(start)

    def _stored(self, start: int = 0) -> Iterator[bytes]:
        """Yield the directory as it was written, from *start* on."""
        stop = self._writer.size
        return (self._writer[at : min(at + STRIDE, stop)] for at in range(start, stop, STRIDE))

    def _read_members(self, pieces: Iterable[Buffer]) -> None:
        """Collect the members and folders, and leave out what cannot be shown."""
        folders, parent_path, parent = self._folders, "", 0
        state = self._hash.of_folder(parent)
        latest, names, add_shown = self._columns.latest, self._names.latest, self._is_shown.append
        add_entry_at, add_number = latest["entry_at"].append, latest["number"].append
        add_parent, add_start = latest["parent"].append, latest["start"].append
        add_time, add_line = latest["time"].append, latest["line"].append
        member = 0
        rows = read_rows(
            pieces, self._end.leading_bytes, self._root, is_from_windows=self._is_from_windows
        )
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
            hashed = int.from_bytes(hashing.digest(), "little")
            names[hashed >> 32 - PARTITION_BITS].append(hashed << 32 | member)
            add_entry_at(at)
            add_number(number)
            add_parent(parent)
            add_start(start)
            add_time(mtime_ns)
            add_line(line_length(path, size, compressed))
            add_shown(not is_large)
            member += 1
            if member % GROUP == 0:
                self._columns.flush_group()
                self._names.flush()
        if self._left_out > MAX_WARNINGS:
            self._warn("%d members are left out for their names or sizes", self._left_out)

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

    def _path(self, child: int) -> tuple[int, bytes]:
        """Return the parent and the name of a member or folder."""
        if child & FOLDER:
            folder = child ^ FOLDER
            return self._folders.parent[folder], self._folders.name(folder)
        return self._columns.item("parent", child), self._name(child)

    def _leave_out(self, path: str) -> None:
        self._left_out += 1
        if self._left_out <= MAX_WARNINGS:
            self._warn("a member is left out for its name or size: %.300r", path)

    def _name(self, member: int) -> bytes:
        found = parse_entry(
            self._writer,
            self._columns.item("entry_at", member),
            self._end.leading_bytes,
            self._root,
            self._columns.item("number", member),
            is_from_windows=self._is_from_windows,
        )
        return found.path.rpartition("/")[2].encode()

    def _log_nothing_shown(self) -> None:
        """Log why an archive that has members shows none of them."""
        if self._left_out:
            self._warn("every member beneath %s is left out", self._root)
        elif (first := first_name(self._stored())) is not None:
            self._warn("no member lies beneath %s, the first is %.300r", self._root, first)

    def _warn(self, text: str, *values: object) -> None:
        log.warning("%s: %s", self._archive_path, text % values)

    def _remove_shadowed(self, shadowed: "array[int]", first_member: "array[int]") -> None:
        """Remove the members at the paths of folders that are shown."""
        count = 0
        for member, folder in zip(shadowed[::2], shadowed[1::2], strict=True):
            if self._is_shown[member] and self._is_folder_shown(folder, first_member):
                self._is_shown[member] = 0
                count += 1
                # The folder takes the member's position in the listing.
                if not 0 <= first_member[folder] <= member:
                    first_member[folder] = member
        if count:
            self._warn("%d files that are also directories are left out", count)

    def _is_folder_shown(self, folder: int, first_member: "array[int]") -> bool:
        """Whether there is a shown member beneath the folder, or an entry of it or beneath it."""
        return first_member[folder] >= 0 or self._folders.first_entry[folder] >= 0

    def _shown_names(self, first_member: "array[int]") -> "Iterator[array[int]]":
        """Yield the rows of the names that are shown, with the final numbers of the members."""
        parts = self._names.sorted_parts()
        folders = range(1, len(self._folders))
        are_shown = all(self._is_folder_shown(folder, first_member) for folder in folders)
        if are_shown and 0 not in self._is_shown:
            yield from parts
            return
        new_numbers = array("I", (0,))
        for is_shown in self._is_shown:
            new_numbers.append(new_numbers[-1] + is_shown)
        for rows in parts:
            shown = array("Q")
            for row in rows:
                child = row & CHILD
                if child & FOLDER:
                    if self._is_folder_shown(child ^ FOLDER, first_member):
                        shown.append(row)
                elif self._is_shown[child]:
                    shown.append(row ^ child | new_numbers[child])
            yield shown

    def _write(
        self, children: "array[int]", child_at: "array[int]", first_member: "array[int]"
    ) -> ArchiveIndex:
        folders, is_shown = self._folders, self._is_shown
        listing_at, listing_bytes = array("Q"), 0
        lines = chain.from_iterable(self._columns.shown_parts("line", is_shown))
        while step := list(islice(lines, STEP)):
            listing_at.append(listing_bytes)
            listing_bytes += sum(step)
        starts = chain.from_iterable(self._columns.shown_parts("start", is_shown))
        bucket_at = array("I")
        tables: dict[str, Iterable[Any]] = {
            "entry_at": self._columns.shown_parts("entry_at", is_shown),
            "number": self._columns.shown_parts("number", is_shown),
            "parent": self._columns.shown_parts("parent", is_shown),
            "start": self._columns.shown_parts("start", is_shown),
            "folder_name_at": [folders.name_at],
            "folder_parent": [folders.parent],
            "folder_time": [folders.time],
            "name_rows": fill_buckets(
                self._shown_names(first_member), len(is_shown) + len(folders), bucket_at
            ),
            "bucket_at": [bucket_at],
            "child_at": [child_at],
            "children": [children],
            "listing_at": [listing_at],
            "names": [folders.names],
        }
        counts = {name: self._write_table(tables[name]) for name in TABLES}
        head = Head(
            version=self._version,
            end=self._end,
            root=self._root,
            is_from_windows=self._is_from_windows,
            are_starts_sorted=all(starmap(le, pairwise(starts))),
            salt=self._hash.salt.hex(),
            listing_bytes=listing_bytes,
            counts=counts,
        )
        self._writer.align()
        self._writer.write(encode_head(head))
        index = open_index(self._writer.seal(KIND), self._root)
        if index is None:
            raise CorruptData("the index of the archive cannot be read back")
        return index

    def _write_table(self, parts: "Iterable[array[int] | bytearray]") -> int:
        """Write a table; return the number of its items."""
        self._writer.align()
        count = 0
        for part in parts:
            self._writer.write(memoryview(part).cast("B"))
            count += len(part)
        return count

"""`ArchiveIndex`: the files of an archive beneath one root, in archive order and as a tree.

Members and folders are views: each is read from the index when it is needed. `index_builder` makes
the index, and `index_layout` says how it lies in memory or in a file.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, overload

from taskfs.archive.central_directory import CENTRAL, entry_length, parse_entry
from taskfs.archive.directory_parser import read_rows
from taskfs.archive.index_layout import (
    FOLDER,
    NO_TIME,
    Head,
    NameHash,
    decode_head,
    find_children,
    open_tables,
)
from taskfs.archive.member import Member
from taskfs.cache.sealed_file import Content
from taskfs.cache.spill_file import IN_MEMORY

# Children that are read at once for an iteration.
BATCH: Final = 256


class ChildRow(NamedTuple):
    """One name in a folder, with what a listing shows of it."""

    name: str
    number: int | None  # of a member; None for a folder
    mtime_ns: int | None
    size: int = 0
    compressed_size: int = 0
    is_executable: bool = False


class Folder:
    """A directory of the archive."""

    __slots__ = ("_id", "_index")

    def __init__(self, index: "ArchiveIndex", number: int) -> None:
        self._index = index
        self._id = number

    @property
    def mtime_ns(self) -> int | None:
        """The time of its own entry, else the newest time beneath it, or None without any."""
        time_ns: int = self._index.tables["folder_time"][self._id]
        return None if time_ns == NO_TIME else time_ns

    @property
    def children(self) -> "Children":
        """The folders and members in it by name, in the order of the listing."""
        return Children(self._index, self._id)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Folder):
            return NotImplemented
        return self._index is other._index and self._id == other._id

    def __hash__(self) -> int:
        return hash((id(self._index), self._id))


class Children(Mapping[str, Folder | Member]):
    """The children of one folder by name."""

    __slots__ = ("_folder", "_index")

    def __init__(self, index: "ArchiveIndex", folder: int) -> None:
        self._index = index
        self._folder = folder

    def __getitem__(self, name: str) -> Folder | Member:
        found = self.get(name)
        if found is None:
            raise KeyError(name)
        return found

    # Like that of Mapping, but nothing is raised for a missing name.
    def get(self, name: str, default: object = None) -> Folder | Member | None:  # type: ignore[override]
        """Return the child called *name*, or None."""
        return self._index.find_child(self._folder, name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __len__(self) -> int:
        starts = self._index.tables["child_at"]
        return int(starts[self._folder + 1] - starts[self._folder])

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BATCH):
            yield from (row.name for row in self.rows(start, start + BATCH))

    def rows(self, start: int, stop: int) -> list[ChildRow]:
        """Return the children [start, stop) of the listing; no object is made of a member."""
        return self._index.child_rows(self._folder, start, min(stop, len(self)))

    def rows_after(self, number: int, count: int = BATCH) -> list[ChildRow]:
        """Return up to *count* of the members that follow this one in the archive's order."""
        return self._index.rows_after(self._folder, number, count)


class Members(Sequence[Member]):
    """The members of an index in archive order."""

    __slots__ = ("_index",)

    def __init__(self, index: "ArchiveIndex") -> None:
        self._index = index

    def __len__(self) -> int:
        return len(self._index.tables["entry_at"])

    @overload
    def __getitem__(self, position: int) -> Member: ...
    @overload
    def __getitem__(self, position: slice) -> list[Member]: ...
    def __getitem__(self, position: int | slice) -> Member | list[Member]:
        if isinstance(position, slice):
            return [self._index.member(each) for each in range(*position.indices(len(self)))]
        return self._index.member(range(len(self))[position])

    def __iter__(self) -> Iterator[Member]:
        return map(self._index.member, range(len(self)))


class ArchiveIndex:
    """The files of one archive beneath one root. Safe for concurrent use: only a hint changes.

    *content* is a sealed index. Where it is a file that was damaged, reads raise `CacheChanged`.
    """

    def __init__(self, content: Content, head: Head) -> None:
        self.head = head
        self.tables = open_tables(content, head)
        self._content = content
        self._hash = NameHash(bytes.fromhex(head.salt))
        # The member that was found last, and the step to it from a neighbour that was found before,
        # or 0. The hash table is read in random order, so a walk looks at the next member first.
        self._latest = -2, 0
        self.root = Folder(self, 0)
        self.members = Members(self)
        # Bytes of memory; of a file, some pages are kept.
        self.memory_bytes = min(len(content), IN_MEMORY)
        numbers = self.tables["number"]
        self.number_stop = int(numbers[-1]) + 1 if len(numbers) else 0  # above those of all members

    @property
    def is_lost(self) -> bool:
        """Whether its file was found damaged."""
        return not isinstance(self._content, bytes) and self._content.is_lost

    def sorted_starts(self) -> Sequence[int]:
        """Return the offsets of the members' local headers in ascending order."""
        starts: Sequence[int] = self.tables["start"]
        return starts if self.head.are_starts_sorted else array("Q", sorted(starts))

    def member(self, number: int) -> Member:
        """Return the member at this position of `members`."""
        head, tables = self.head, self.tables
        return parse_entry(
            self._content,
            tables["entry_at"][number],
            head.end.leading_bytes,
            head.root,
            tables["number"][number],
            is_from_windows=head.is_from_windows,
        )

    def folder_name(self, number: int) -> str:
        """Return the last component of a folder's path."""
        starts = self.tables["folder_name_at"]
        return str(self.tables["names"][starts[number] : starts[number + 1]], "utf-8")

    def child_rows(self, folder: int, start: int, stop: int) -> list[ChildRow]:
        """Return the children [start, stop) of *folder* in the order of the listing."""
        tables = self.tables
        first = tables["child_at"][folder]
        children = tables["children"][first + start : first + stop]
        rows: list[ChildRow] = []
        while len(rows) < len(children):
            child = children[len(rows)]
            if child & FOLDER:
                time_ns = tables["folder_time"][child ^ FOLDER]
                mtime_ns = None if time_ns == NO_TIME else time_ns
                rows.append(ChildRow(self.folder_name(child ^ FOLDER), None, mtime_ns))
            else:
                # Neighbours in the listing are mostly neighbours in the directory.
                count, rest = 1, len(children) - len(rows)
                while count < rest and children[len(rows) + count] == child + count:
                    count += 1
                rows += self._member_rows(child, count)
        return rows

    def rows_after(self, folder: int, number: int, most: int) -> list[ChildRow]:
        """Return the members of *folder* that follow that with this `number` without a gap."""
        numbers, parents = self.tables["number"], self.tables["parent"]
        first = bisect_right(numbers, number)
        count = 0
        for parent in parents[first : first + most]:
            if parent != folder:
                break
            count += 1
        return list(self._member_rows(first, count)) if count else []

    def _member_rows(self, first: int, count: int) -> Iterator[ChildRow]:
        """Yield the rows of *count* members from *first* on."""
        head = self.head
        offsets = self.tables["entry_at"][first : first + count]
        numbers = self.tables["number"][first : first + count]
        begin, last = offsets[0], offsets[-1]
        stop = last + entry_length(self._content[last : last + CENTRAL.size])
        entries = self._content[begin:stop]
        settings = (head.end.leading_bytes, head.root)
        rows = read_rows([entries], *settings, is_from_windows=head.is_from_windows)
        wanted = 0
        for _, at, path, size, compressed, _, mtime_ns, is_executable in rows:
            if begin + at == offsets[wanted]:  # others are folders, or of names that came twice
                name, number = path.rpartition("/")[2], numbers[wanted]
                yield ChildRow(name, number, mtime_ns, size, compressed, is_executable)
                wanted += 1

    def find_child(self, folder: int, name: str) -> Folder | Member | None:
        """Return the child of *folder* called *name*, or None."""
        number, step = self._latest
        if step and (member := self._member_called(number + step, folder, name)) is not None:
            self._latest = number + step, step
            return member
        try:
            hashed = self._hash.of(folder, name.encode())
        except UnicodeEncodeError:  # the bytes of a name that is not UTF-8: no name here has them
            return None
        for found in find_children(self.tables, hashed):
            if found & FOLDER:
                child = found ^ FOLDER
                is_in_folder = self.tables["folder_parent"][child] == folder
                if is_in_folder and self.folder_name(child) == name:
                    return Folder(self, child)
            elif (member := self._member_called(found, folder, name)) is not None:
                self._latest = found, found - number if abs(found - number) == 1 else 0
                return member
        return None

    def _member_called(self, number: int, folder: int, name: str) -> Member | None:
        """Return the member at this position if it is called *name* in *folder*."""
        if not 0 <= number < len(self.members) or self.tables["parent"][number] != folder:
            return None
        member = self.member(number)
        return member if member.path.rpartition("/")[2] == name else None

    def lookup(self, path: str) -> Folder | Member | None:
        """Return the folder or member at *path*, or None; the root for an empty path."""
        node: Folder | Member | None = self.root
        for name in path.split("/") if path else ():
            if not isinstance(node, Folder):
                return None
            node = node.children.get(name)
        return node


def open_index(content: Content, root: str) -> ArchiveIndex | None:
    """Return the index in *content*; None if it is of another version of taskfs or root.

    Raises:
        CacheChanged: a page of its file that is read now is damaged.
    """
    head = decode_head(content)
    return ArchiveIndex(content, head) if head is not None and head.root == root else None

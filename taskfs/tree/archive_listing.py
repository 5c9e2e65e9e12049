"""The entries of an archive's directory with their attributes, of which there may be a million."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple, overload

from taskfs.archive.archive import Archive
from taskfs.archive.index import BATCH, ChildRow
from taskfs.archive.member import Member
from taskfs.model import Task
from taskfs.tasks.archive_kind import ArchiveKey
from taskfs.tasks.archives import ArchiveRegistry
from taskfs.tree.lifetime import Lifetime
from taskfs.tree.nodes import (
    DIRECTORY_MODE,
    FILE_MODE,
    PROGRAM_MODE,
    AttributedEntries,
    Attrs,
    Entry,
    blocks_of,
    inode,
)
from taskfs.tree.page_cache import PageCache


class Origin(NamedTuple):
    """The archive that the members beneath one node belong to."""

    task: Task
    key: ArchiveKey
    archive: Archive
    archives: ArchiveRegistry
    page_cache: PageCache
    inode_base: int
    epoch: int  # of the registry when the archive was looked up
    is_final: bool  # by the task's record

    @property
    def is_current(self) -> bool:
        """Whether no archive was loaded or dropped since."""
        return self.epoch == self.archives.epoch

    def lifetime(self) -> Lifetime:
        """Return for how long the kernel may keep what the archive says."""
        if not self.is_final or not self.archives.is_current(self.key, self.archive):
            return Lifetime.TIMEOUT
        return self.page_cache.lifetime(self.key, self.archive.version)


class ArchiveEntries(AttributedEntries):
    """The entries of one directory of an archive. Safe for concurrent use.

    *read_rows* returns a part of the children. The last part is kept, because a listing is read in
    small pieces.
    """

    def __init__(
        self,
        path: str,
        count: int,
        origin: Origin,
        read_rows: Callable[[int, int], list[ChildRow]],
    ) -> None:
        self._path = path
        self._count = count
        self._origin = origin
        self._read_rows = read_rows
        self._part: tuple[int, list[ChildRow]] = (0, [])

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> list[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | list[Entry]:
        if isinstance(position, slice):
            return [self[each] for each in range(*position.indices(self._count))]
        return self._entry(next(self._rows(range(self._count)[position])))

    def __iter__(self) -> Iterator[Entry]:
        return map(self._entry, self._rows(0))

    def attributed(self, start: int) -> Iterator[tuple[Entry, Attrs | None]]:
        # The kernel may read on a listing much later, when the archive has been replaced.
        is_current, lifetime = self._origin.is_current, self._origin.lifetime()
        for row in self._rows(start):
            entry = self._entry(row)
            yield entry, self._attrs(row, entry, lifetime) if is_current else None

    def _rows(self, start: int) -> Iterator[ChildRow]:
        """Yield the children from *start* on."""
        while start < self._count:
            first, rows = self._part
            if not first <= start < first + len(rows):
                first, rows = self._part = start, self._read_rows(start, start + BATCH)
            for row in islice(rows, start - first, None):
                start += 1
                yield row

    def _entry(self, row: ChildRow) -> Entry:
        if row.number is None:
            return Entry(row.name, DIRECTORY_MODE, inode(f"{self._path}/{row.name}"))
        return Entry(row.name, FILE_MODE, self._origin.inode_base + row.number)

    def _attrs(self, row: ChildRow, entry: Entry, lifetime: Lifetime) -> Attrs:
        if row.number is None:
            return folder_attrs(entry.ino, row.mtime_ns, self._origin, lifetime)
        return member_attrs(f"{self._path}/{row.name}", row, entry.ino, self._origin, lifetime)


def folder_attrs(
    ino: int, mtime_ns: int | None, origin: Origin, lifetime: Lifetime | None = None
) -> Attrs:
    """Return the attributes of a directory whose time is *mtime_ns*."""
    time_ns = origin.task.last_change_ns if mtime_ns is None else mtime_ns
    return Attrs(DIRECTORY_MODE, ino, 0, time_ns, time_ns, 0, lifetime or origin.lifetime())


def member_attrs(
    path: str,
    member: Member | ChildRow,
    ino: int,
    origin: Origin,
    lifetime: Lifetime | None = None,
) -> Attrs:
    """Return the attributes of a file."""
    size, mtime_ns = member.size, member.mtime_ns or 0
    return Attrs(
        PROGRAM_MODE if member.is_executable else FILE_MODE,
        ino,
        origin.page_cache.reported_size(origin.key, path, size),
        mtime_ns,
        mtime_ns,
        # `tar -S` stores a file with bytes but without blocks as zeros.
        blocks_of(member.compressed_size) or (1 if size else 0),
        lifetime or origin.lifetime(),
    )

"""The nodes of `outputs/` and `inputs/`, and of the files beneath them."""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, TypeVar

from taskfs.archive.archive import Archive
from taskfs.archive.decoders import METHOD_NAMES
from taskfs.archive.index import ChildRow, Folder
from taskfs.archive.member import Member
from taskfs.errors import CacheChanged, NoAttribute, NotFound
from taskfs.model import Task
from taskfs.tasks.archive_kind import ArchiveKey, ArchiveKind
from taskfs.tasks.archives import ArchiveRegistry
from taskfs.tree.archive_handles import MemberHandle
from taskfs.tree.archive_listing import ArchiveEntries, Origin, folder_attrs, member_attrs
from taskfs.tree.handles import Handle
from taskfs.tree.lifetime import Lifetime
from taskfs.tree.nodes import (
    DIRECTORY_MODE,
    Attrs,
    Directory,
    Entry,
    Node,
    inode,
    inode_base,
)
from taskfs.tree.page_cache import PageCache

T = TypeVar("T")

# After LOOKUP_STREAK names that a program looks up in a row, the next NAMES_AHEAD are read ahead. A
# program that lists a directory first looks up no name.
LOOKUP_STREAK: Final = 32
NAMES_AHEAD: Final = 1024

MEMBER_XATTRS: Final[dict[str, Callable[[Member], str]]] = {
    "user.taskfs.compressed_size": lambda member: str(member.compressed_size),
    "user.taskfs.crc32": lambda member: f"{member.crc32:08x}",
    "user.taskfs.compression": lambda member: METHOD_NAMES.get(member.method, str(member.method)),
}


class ArchiveRootNode(Directory):
    """`outputs/` or `inputs/`: an empty directory while there is no archive."""

    def __init__(
        self,
        path: str,
        task: Task,
        kind: ArchiveKind,
        archives: ArchiveRegistry,
        page_cache: PageCache,
    ) -> None:
        super().__init__(path)
        self._task = task
        self._kind = kind
        self._archives = archives
        self._page_cache = page_cache
        self._listed: ArchiveDirectoryNode | None = None  # the directory that `children` listed

    def attrs(self) -> Attrs:
        epoch = self._archives.epoch
        archive = self._archives.get(self._task, self._kind, raw=True)
        # An archive whose files cannot be shown fails when it is listed. The task stays visible.
        if archive is not None and archive.index_error is None:
            # The kernel asks again after the attr timeout, so a change of the record is seen.
            attrs = self._directory_of(archive, epoch).attrs()
            return attrs._replace(lifetime=Lifetime.TIMEOUT)
        mtime_ns = self._task.last_change_ns
        return Attrs(DIRECTORY_MODE, inode(self.path), mtime_ns=mtime_ns, ctime_ns=mtime_ns)

    def directory(self) -> "ArchiveDirectoryNode | None":
        """Return the root directory of the archive, None while there is no archive."""
        epoch = self._archives.epoch
        archive = self._archives.await_archive(self._task, self._kind)
        return None if archive is None else self._directory_of(archive, epoch)

    def _directory_of(self, archive: Archive, epoch: int) -> "ArchiveDirectoryNode":
        origin = Origin(
            task=self._task,
            key=ArchiveKey(self._task.id, self._kind),
            archive=archive,
            archives=self._archives,
            page_cache=self._page_cache,
            inode_base=inode_base(self.path),
            epoch=epoch,
            is_final=self._kind.identity(self._task) is not None,
        )
        return ArchiveDirectoryNode(self.path, "", archive.index.root, origin)

    def lookup(self, name: str) -> Node:
        root = self.directory()
        if root is None:
            raise NotFound(f"there is no {self.child_path(name)}")
        return root.lookup(name)

    def children(self) -> Iterable[Entry]:
        root = self._listed = self.directory()
        return [] if root is None else root.children()

    def lifetime(self) -> Lifetime:
        return self._listed.lifetime() if self._listed is not None else Lifetime.TIMEOUT

    def contents(self) -> object:
        epoch = self._archives.epoch
        archive = self._archives.peek(self._task, self._kind)
        return None if archive is None else self._directory_of(archive, epoch).contents()


class ArchiveRange(NamedTuple):
    """The bytes of an archive that hold one file."""

    task: Task
    archive: Archive
    part: range


class ArchiveDirectoryNode(Directory):
    """A directory of an archive.

    If the index on disk was damaged while it was in use, it is loaded again.
    """

    def __init__(self, path: str, inner: str, folder: Folder, origin: Origin) -> None:
        super().__init__(path)
        self._inner = inner
        self._folder = folder
        self._origin = origin
        # The member whose attributes were asked for last, and those that follow it in the archive,
        # which are read together: programs ask for one after another.
        self._last = -1
        self._next_rows: dict[str, ChildRow] = {}
        self._streak = 0  # members in a row that were asked for, by their attributes
        self._names_end = -1  # the last member whose name was read ahead

    def attrs(self) -> Attrs:
        mtime_ns = self._read(lambda folder: folder.mtime_ns)
        return folder_attrs(inode(self.path), mtime_ns, self._origin)

    def lookup(self, name: str) -> Node:
        child, path = self._child(name), f"{self.path}/{name}"
        if isinstance(child, Folder):
            inner = f"{self._inner}/{name}" if self._inner else name
            return ArchiveDirectoryNode(path, inner, child, self._origin)
        return MemberNode(path, child, self._origin)

    def attrs_of(self, name: str) -> Attrs:
        """Return the attributes of the child *name*; raise as `lookup` does."""
        path, child = f"{self.path}/{name}", self._next_rows.get(name) or self._child(name)
        if isinstance(child, Folder):
            return folder_attrs(inode(path), child.mtime_ns, self._origin)
        number = child.number or 0
        is_next = number == self._last + 1
        if isinstance(child, Member) and is_next:
            rows = self._read(lambda folder: folder.children.rows_after(number))
            self._next_rows = {row.name: row for row in rows}
        self._last = number
        self._streak = self._streak + 1 if is_next or number == self._names_end + 1 else 0
        return member_attrs(path, child, self._origin.inode_base + number, self._origin)

    def has_lookups_in_order(self) -> bool:
        """Whether names should be read ahead: the last members were asked for one by one."""
        return (
            self._streak >= LOOKUP_STREAK
            and self._last > self._names_end
            and len(self._next_rows) >= LOOKUP_STREAK
        )

    def expect_names(self) -> None:
        """Note that the next names are about to be read: up to their end, `has_lookups_in_order`
        is False."""
        self._names_end = self._last + NAMES_AHEAD

    def next_entries(self) -> ArchiveEntries:
        """Return the entries after those that a program has asked for one by one."""
        rows = self._read(lambda folder: folder.children.rows_after(self._last, NAMES_AHEAD))
        if rows:
            self._names_end = rows[-1].number or 0
        return ArchiveEntries(self.path, len(rows), self._origin, lambda a, b: rows[a:b])

    def _child(self, name: str) -> Folder | Member:
        child = self._read(lambda folder: folder.children.get(name))
        if child is None:
            raise NotFound(f"there is no {self.path}/{name}")
        return child

    def lifetime(self) -> Lifetime:
        return self._origin.lifetime()

    def contents(self) -> object:
        is_kept = self._origin.lifetime() is Lifetime.VERSION
        return (self._origin.key, self._origin.archive.version) if is_kept else None

    def children(self) -> Iterable[Entry]:
        count = self._read(lambda folder: len(folder.children))
        return ArchiveEntries(self.path, count, self._origin, self._rows)

    def _rows(self, start: int, stop: int) -> list[ChildRow]:
        return self._read(lambda folder: folder.children.rows(start, stop))

    def _read(self, read: Callable[[Folder], T]) -> T:
        """Return what *read* reads of the folder, with a second attempt if the index was damaged.

        Raises:
            CacheChanged: it was, and the archive was replaced.
        """
        try:
            return read(self._folder)
        except CacheChanged:
            origin = self._origin
            epoch = origin.archives.epoch
            archive = origin.archives.await_archive(origin.task, origin.key.kind)
            if archive is None or archive.version != origin.archive.version:
                raise
            folder = archive.index.lookup(self._inner)
            if not isinstance(folder, Folder):
                raise
            self._folder, self._origin = folder, origin._replace(archive=archive, epoch=epoch)
            self._next_rows = {}
            return read(folder)


class MemberNode(Node):
    """A file of an archive."""

    def __init__(self, path: str, member: Member, origin: Origin) -> None:
        super().__init__(path)
        self._member = member
        self._origin = origin

    def attrs(self) -> Attrs:
        ino = self._origin.inode_base + self._member.number
        return member_attrs(self.path, self._member, ino, self._origin)

    @property
    def etag(self) -> str:
        return self._origin.archive.version.etag

    @property
    def archive_range(self) -> ArchiveRange:
        """Where the file's bytes lie in its archive."""
        archive = self._origin.archive
        return ArchiveRange(self._origin.task, archive, archive.extent_of(self._member))

    def open(self, *, writing: bool) -> Handle:
        self._refuse_writing(writing)
        member, origin = self._member, self._origin
        reader = origin.archive.open_member(member)
        lease = origin.page_cache.lease(origin.key, origin.archive.version, self.path, member.size)
        return MemberHandle(reader, origin.archive, lease, origin.archives, origin.page_cache)

    def xattr_names(self) -> list[str]:
        return list(MEMBER_XATTRS)

    def xattr(self, name: str) -> str:
        try:
            return MEMBER_XATTRS[name](self._member)
        except KeyError:
            raise NoAttribute(name) from None

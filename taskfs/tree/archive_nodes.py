"""The nodes of `outputs/` and `inputs/`, and of the files beneath them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, overload

from taskfs.archive.archive import Archive
from taskfs.archive.decoders import METHOD_NAMES
from taskfs.archive.index import Child, Children, Folder
from taskfs.archive.member import Member
from taskfs.errors import NoAttribute, NotFound, ReadOnly
from taskfs.model import Task
from taskfs.tasks.archive_kind import ArchiveKey, ArchiveKind
from taskfs.tasks.archives import ArchiveRegistry
from taskfs.tree.archive_handles import MemberHandle
from taskfs.tree.handles import Handle
from taskfs.tree.nodes import (
    DIRECTORY_MODE,
    FILE_MODE,
    PROGRAM_MODE,
    Attrs,
    Directory,
    Entry,
    Node,
    blocks_of,
    inode,
    inode_base,
)
from taskfs.tree.page_cache import PageCache

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
        archive = self._archives.get(self._task, self._kind, raw=True)
        # An archive whose files cannot be shown fails when it is listed. The task stays visible.
        is_shown = archive is not None and archive.index_error is None
        mtime_ns = archive.index.root.mtime_ns if archive is not None and is_shown else None
        if mtime_ns is None:
            mtime_ns = self._task.last_change_ns
        return Attrs(DIRECTORY_MODE, inode(self.path), mtime_ns=mtime_ns, ctime_ns=mtime_ns)

    def directory(self) -> "ArchiveDirectoryNode | None":
        """Return the root directory of the archive, None while there is no archive."""
        epoch = self._archives.epoch
        archive = self._archives.await_archive(self._task, self._kind)
        if archive is None:
            return None
        origin = _Origin(
            task=self._task,
            key=ArchiveKey(self._task.id, self._kind),
            archive=archive,
            archives=self._archives,
            page_cache=self._page_cache,
            inode_base=inode_base(self.path),
            epoch=epoch,
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

    def known_attrs(self, name: str) -> Attrs | None:
        return self._listed.known_attrs(name) if self._listed is not None else None

    def attr_lifetime_s(self) -> float:
        return self._listed.attr_lifetime_s() if self._listed is not None else 0.0


class ArchiveRange(NamedTuple):
    """The bytes of an archive that hold one file."""

    task: Task
    archive: Archive
    part: range


class _Origin(NamedTuple):
    """The archive that the members beneath one node belong to."""

    task: Task
    key: ArchiveKey
    archive: Archive
    archives: ArchiveRegistry
    page_cache: PageCache
    inode_base: int
    epoch: int  # of the registry when the archive was looked up


class ArchiveDirectoryNode(Directory):
    """A directory of an archive."""

    def __init__(self, path: str, inner: str, directory: Folder, origin: _Origin) -> None:
        super().__init__(path)
        self._inner = inner
        self._directory = directory
        self._latest: Child | None = None  # the one that a listing read last
        self._origin = origin

    def attrs(self) -> Attrs:
        mtime_ns = self._directory.mtime_ns
        if mtime_ns is None:
            mtime_ns = self._origin.task.last_change_ns
        return Attrs(DIRECTORY_MODE, inode(self.path), mtime_ns=mtime_ns, ctime_ns=mtime_ns)

    def lookup(self, name: str) -> Node:
        child = self._directory.children.get(name)
        path = f"{self.path}/{name}"
        if child is None:
            raise NotFound(f"there is no {path}")
        if isinstance(child, Folder):
            inner = f"{self._inner}/{name}" if self._inner else name
            return ArchiveDirectoryNode(path, inner, child, self._origin)
        return MemberNode(path, child, self._origin)

    def attrs_of(self, name: str) -> Attrs:
        """Return the attributes of the child *name*; raise as `lookup` does."""
        latest = self._latest
        if latest is not None and latest.name == name:
            child: Folder | Member | None = latest.node
        else:
            child = self._directory.children.get(name)
        if not isinstance(child, Member):
            return self.lookup(name).attrs()
        return _member_attrs(f"{self.path}/{name}", child, self._origin)

    def known_attrs(self, name: str) -> Attrs | None:
        # The kernel may read on a listing much later, when the archive has been replaced.
        return self.attrs_of(name) if self._origin.epoch == self._origin.archives.epoch else None

    def attr_lifetime_s(self) -> float:
        origin = self._origin
        return origin.page_cache.attr_lifetime(origin.key, len(self._directory.children))

    def children(self) -> Iterable[Entry]:
        return _Entries(self, self._directory.children)

    def entry_of(self, child: Child) -> Entry:
        """Return the directory entry of a child, whose attributes are mostly needed next."""
        self._latest = child
        if child.number is None:
            return self.entry(child.name, DIRECTORY_MODE)
        return Entry(child.name, FILE_MODE, self._origin.inode_base + child.number)


class _Entries(Sequence[Entry]):
    """The entries of a directory, each made when it is needed: there may be a million."""

    def __init__(self, node: ArchiveDirectoryNode, children: Children) -> None:
        self._node = node
        self._children = children
        self._count = len(children)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, position: int) -> Entry: ...
    @overload
    def __getitem__(self, position: slice) -> list[Entry]: ...
    def __getitem__(self, position: int | slice) -> Entry | list[Entry]:
        if isinstance(position, slice):
            return [self[each] for each in range(*position.indices(self._count))]
        return self._node.entry_of(self._children.at(range(self._count)[position]))

    def __iter__(self) -> Iterator[Entry]:
        return (self._node.entry_of(self._children.at(each)) for each in range(self._count))


def _member_attrs(path: str, member: Member, origin: _Origin) -> Attrs:
    return Attrs(
        PROGRAM_MODE if member.is_executable else FILE_MODE,
        origin.inode_base + member.number,
        origin.page_cache.reported_size(origin.key, path, member.size),
        member.mtime_ns,
        member.mtime_ns,
        # `tar -S` stores a file with bytes but without blocks as zeros.
        blocks_of(member.compressed_size) or (1 if member.size else 0),
    )


class MemberNode(Node):
    """A file of an archive."""

    def __init__(self, path: str, member: Member, origin: _Origin) -> None:
        super().__init__(path)
        self._member = member
        self._origin = origin

    def attrs(self) -> Attrs:
        return _member_attrs(self.path, self._member, self._origin)

    @property
    def etag(self) -> str:
        return self._origin.archive.version.etag

    @property
    def archive_range(self) -> ArchiveRange:
        """Where the file's bytes lie in its archive."""
        archive = self._origin.archive
        return ArchiveRange(self._origin.task, archive, archive.extent_of(self._member))

    def open(self, *, writing: bool) -> Handle:
        if writing:
            raise ReadOnly(f"{self.path} cannot be written")
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

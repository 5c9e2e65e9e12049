"""The nodes beneath `outputs/` and `inputs/`, and the raw archives."""

from collections.abc import Callable, Iterable
from typing import Final

from taskfs.archive.archive import Archive
from taskfs.archive.decoders import METHOD_NAMES
from taskfs.archive.index import Folder, Member
from taskfs.errors import NoAttribute, NotFound, ReadOnly
from taskfs.model import Task
from taskfs.tasks.archives import ArchiveKind, ArchiveRegistry
from taskfs.tree.handles import ArchiveHandle, Handle
from taskfs.tree.nodes import (
    DIRECTORY_MODE,
    FILE_MODE,
    Attrs,
    Directory,
    Entry,
    Node,
    blocks_of,
    inode,
    inode_base,
)

MEMBER_XATTRS: Final[dict[str, Callable[[Member], str]]] = {
    "user.taskfs.compressed_size": lambda member: str(member.compressed_size),
    "user.taskfs.crc32": lambda member: f"{member.crc32:08x}",
    "user.taskfs.compression": lambda member: METHOD_NAMES.get(member.method, str(member.method)),
}


class MembersNode(Directory):
    """`outputs/` or `inputs/`: empty while there is no archive."""

    def __init__(self, path: str, task: Task, kind: ArchiveKind, archives: ArchiveRegistry) -> None:
        super().__init__(path)
        self._task = task
        self._kind = kind
        self._archives = archives
        self._listed: FolderNode | None = None  # what `children` showed

    def attrs(self) -> Attrs:
        archive = self._archives.get(self._task, self._kind)
        mtime_ns = archive.index.root.mtime_ns if archive is not None else None
        if mtime_ns is None:
            mtime_ns = self._task.last_change_ns
        return Attrs(DIRECTORY_MODE, inode(self.path), mtime_ns=mtime_ns, ctime_ns=mtime_ns)

    def folder(self) -> "FolderNode | None":
        """Return the archive's own folder, None while there is no archive."""
        epoch = self._archives.epoch
        archive = self._archives.await_archive(self._task, self._kind)
        if archive is None:
            return None
        place = _Place(
            self._task, self._kind, self._archives, archive, inode_base(self.path), epoch
        )
        return FolderNode(self.path, "", archive.index.root, place)

    def lookup(self, name: str) -> Node:
        root = self.folder()
        if root is None:
            raise NotFound(f"there is no {self.child_path(name)}")
        return root.lookup(name)

    def children(self) -> Iterable[Entry]:
        root = self._listed = self.folder()
        return [] if root is None else root.children()

    def known_attrs(self, name: str) -> Attrs | None:
        return self._listed.known_attrs(name) if self._listed is not None else None

    def attr_lifetime_s(self) -> float:
        return self._listed.attr_lifetime_s() if self._listed is not None else 0.0


class _Place:
    """Where the members beneath one node come from."""

    __slots__ = ("archive", "archives", "epoch", "inode_base", "task", "which")

    def __init__(
        self,
        task: Task,
        kind: ArchiveKind,
        archives: ArchiveRegistry,
        archive: Archive,
        inode_base: int,
        epoch: int,
    ) -> None:
        self.task = task
        self.which = kind
        self.archives = archives
        self.archive = archive
        self.inode_base = inode_base
        self.epoch = epoch  # of the shelf when the archive was asked for


class FolderNode(Directory):
    """A directory of an archive."""

    def __init__(self, path: str, inner: str, folder: Folder, place: _Place) -> None:
        super().__init__(path)
        self._inner = inner
        self._folder = folder
        self._place = place

    def attrs(self) -> Attrs:
        mtime_ns = self._folder.mtime_ns
        if mtime_ns is None:
            mtime_ns = self._place.task.last_change_ns
        return Attrs(DIRECTORY_MODE, inode(self.path), mtime_ns=mtime_ns, ctime_ns=mtime_ns)

    def lookup(self, name: str) -> Node:
        child = self._folder.children.get(name)
        path = f"{self.path}/{name}"
        if child is None:
            raise NotFound(f"there is no {path}")
        if isinstance(child, Folder):
            inner = f"{self._inner}/{name}" if self._inner else name
            return FolderNode(path, inner, child, self._place)
        return MemberNode(path, child, self._place)

    def attrs_of(self, name: str) -> Attrs:
        """Return the attributes of *name* beneath this directory; raises as `lookup`."""
        child = self._folder.children.get(name)
        if not isinstance(child, Member):
            return self.lookup(name).attrs()
        return _member_attrs(f"{self.path}/{name}", child, self._place)

    def known_attrs(self, name: str) -> Attrs | None:
        # A listing may be read on for long: by then another archive may be there.
        return self.attrs_of(name) if self._place.epoch == self._place.archives.epoch else None

    def attr_lifetime_s(self) -> float:
        place = self._place
        return place.archives.attr_lifetime(place.task.id, place.which, len(self._folder.children))

    def children(self) -> Iterable[Entry]:
        base = self._place.inode_base
        return [
            self.entry(name, DIRECTORY_MODE)
            if isinstance(child, Folder)
            else Entry(name, FILE_MODE, base + child.number)
            for name, child in self._folder.children.items()
        ]


def _member_attrs(path: str, member: Member, place: _Place) -> Attrs:
    return Attrs(
        FILE_MODE,
        place.inode_base + member.number,
        place.archives.reported_size(place.task.id, place.which, path, member.size),
        member.mtime_ns,
        member.mtime_ns,
        # None where there are bytes would make `tar -S` store zeros.
        blocks_of(member.compressed_size) or (1 if member.size else 0),
    )


class MemberNode(Node):
    """A file of an archive."""

    def __init__(self, path: str, member: Member, place: _Place) -> None:
        super().__init__(path)
        self._member = member
        self._place = place

    def attrs(self) -> Attrs:
        return _member_attrs(self.path, self._member, self._place)

    @property
    def etag(self) -> str:
        return self._place.archive.version.etag

    def open(self, *, writing: bool) -> Handle:
        if writing:
            raise ReadOnly(f"{self.path} cannot be written")
        member, place = self._member, self._place
        reader = place.archive.open_member(member)
        lease, mode = place.archives.lease(
            place.task.id, place.which, place.archive, self.path, member.size
        )
        return ArchiveHandle(reader, member.size, place.archive, lease, mode, place.archives)

    def xattr_names(self) -> list[str]:
        return list(MEMBER_XATTRS)

    def xattr(self, name: str) -> str:
        try:
            return MEMBER_XATTRS[name](self._member)
        except KeyError:
            raise NoAttribute(name) from None


class RawArchiveNode(Node):
    """`output.zip` or `input.zip` itself: there by name, not listed."""

    def __init__(
        self, path: str, task: Task, kind: ArchiveKind, archives: ArchiveRegistry, archive: Archive
    ) -> None:
        super().__init__(path)
        self._task = task
        self._kind = kind
        self._archives = archives
        self._archive = archive

    def attrs(self) -> Attrs:
        task = self._task
        size = self._archives.reported_size(task.id, self._kind, self.path, self._archive.size)
        mtime_ns = task.last_change_ns
        if self._kind is ArchiveKind.INPUT:
            mtime_ns = task.input_submit_ns or task.create_ns or 0
        return Attrs(
            FILE_MODE,
            inode(self.path),
            size=size,
            mtime_ns=mtime_ns,
            ctime_ns=mtime_ns,
            blocks=blocks_of(size),
        )

    @property
    def etag(self) -> str:
        return self._archive.version.etag

    def open(self, *, writing: bool) -> Handle:
        if writing:
            raise ReadOnly(f"{self.path} cannot be written")
        archive = self._archive
        lease, mode = self._archives.lease(
            self._task.id, self._kind, archive, self.path, archive.size
        )
        return ArchiveHandle(archive.open_raw(), archive.size, archive, lease, mode, self._archives)

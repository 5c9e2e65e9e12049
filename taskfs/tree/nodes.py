"""What a place in the tree can be asked: attributes, names beneath it, what an open gives.

The base class refuses everything with the errno that a file system gives for it, so a kind of
node says only what it can do.
"""

import hashlib
import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

from taskfs.errors import IsADirectory, NoAttribute, NotADirectory, NotFound, ReadOnly
from taskfs.tree.handles import Handle

NUMBER_BITS: Final = 20  # more members than one archive may have
BLOCK_UNIT: Final = 512  # of st_blocks, stat(2)
FILE_MODE: Final = stat.S_IFREG | 0o644
DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755
LINK_MODE: Final = stat.S_IFLNK | 0o777


class Attrs(NamedTuple):
    """What stat(2) tells of a node; sizes in bytes, `blocks` in units of 512 bytes."""

    mode: int
    ino: int
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    blocks: int = 0


class Entry(NamedTuple):
    """A name as readdir lists it: with its type bits and inode number."""

    name: str
    mode: int
    ino: int


def inode(path: str) -> int:
    """Return the inode number of *path*: the same on every mount, never 0."""
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1 or 1


def inode_base(path: str) -> int:
    """Return the inode number from which those of the files beneath *path* count.

    Programs such as grep and find read large directories by inode number: in the archive's order
    they find what was fetched together.
    """
    return inode(path) & ~((1 << NUMBER_BITS) - 1)


def blocks_of(size: int) -> int:
    """Return *size* bytes in units of 512, rounded up."""
    return -(-size // BLOCK_UNIT)


class Node:
    """One place in the tree, at `path` (without a leading slash, empty for the root)."""

    def __init__(self, path: str) -> None:
        self.path = path

    def attrs(self) -> Attrs:
        """Return the attributes; NotFound if the place is gone."""
        raise NotFound(self.path)

    def lookup(self, name: str) -> "Node":
        """Return the node called *name* beneath this one.

        Raises:
            NotFound: there is none.
            NotADirectory: this is a file or a link.
        """
        raise NotADirectory(self.path)

    def children(self) -> Iterable[Entry]:
        """Return what a listing shows, in the order of readdir."""
        raise NotADirectory(self.path)

    def known_attrs(self, name: str) -> "Attrs | None":
        """Return the attributes of *name* beneath this node where nothing goes out for them, so
        that a listing can tell them too; None where they must be asked for."""
        return None

    def attr_lifetime_s(self) -> float:
        """Return for how many seconds the kernel may keep what a listing of this node tells from
        now on, if that is longer than it keeps the rest."""
        return 0.0

    @property
    def etag(self) -> str:
        """What the store says identifies the bytes; empty where they are not the store's."""
        return ""

    def target(self) -> str:
        """Return what a link points to."""
        raise NotADirectory(self.path)

    def open(self, *, writing: bool) -> Handle:
        """Return an open file; ReadOnly where *writing* is refused."""
        raise IsADirectory(self.path)

    def change(self) -> None:
        """Return if truncating the file or setting its mode or times succeeds and does nothing."""
        raise ReadOnly(f"{self.path} cannot be changed")

    def xattr_names(self) -> list[str]:
        """Return the names of the extended attributes."""
        return []

    def xattr(self, name: str) -> str:
        """Return the value of an extended attribute; NoAttribute if there is none."""
        raise NoAttribute(name)

    def set_xattr(self, name: str, value: bytes, *, create: bool, replace: bool) -> None:
        """Set an extended attribute, with the flags of setxattr(2)."""
        raise ReadOnly(f"{self.path}: {name} cannot be set")

    def remove_xattr(self, name: str) -> None:
        """Remove an extended attribute."""
        raise ReadOnly(f"{self.path}: {name} cannot be removed")


class Directory(Node):
    """A node with names beneath it."""

    def open(self, *, writing: bool) -> Handle:
        raise IsADirectory(self.path)

    def child_path(self, name: str) -> str:
        """Return the path of *name* beneath this node."""
        return f"{self.path}/{name}" if self.path else name

    def entry(self, name: str, mode: int) -> Entry:
        """Return the entry that a listing shows for *name*."""
        return Entry(name, mode, inode(self.child_path(name)))


class Link(Node):
    """A symbolic link."""

    def __init__(self, path: str, target: str, mtime_ns: int) -> None:
        super().__init__(path)
        self._target = target
        self._mtime_ns = mtime_ns

    def attrs(self) -> Attrs:
        return Attrs(
            LINK_MODE,
            inode(self.path),
            size=len(self._target.encode("utf-8", "surrogateescape")),
            mtime_ns=self._mtime_ns,
            ctime_ns=self._mtime_ns,
        )

    def target(self) -> str:
        return self._target

"""`Node`: one file, directory or link of the tree.

The base class refuses every operation with the errno of an ordinary file system, so a subclass
implements only what it supports.
"""

import hashlib
import stat
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from taskfs.errors import IsADirectory, NoAttribute, NotADirectory, NotFound, ReadOnly
from taskfs.tree.handles import Handle
from taskfs.tree.lifetime import Lifetime

# Programs that hold numbers as doubles (Node, JSON tools) keep integers of this many bits exact.
INODE_BITS: Final = 53
# Bits of an inode number that count the members of one archive: more than an archive may have.
NUMBER_BITS: Final = 23
BLOCK_UNIT: Final = 512  # bytes of one unit of st_blocks, stat(2)
FILE_MODE: Final = stat.S_IFREG | 0o644
PROGRAM_MODE: Final = stat.S_IFREG | 0o755
DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755
LINK_MODE: Final = stat.S_IFLNK | 0o777


class Attrs(NamedTuple):
    """The attributes of a node for stat(2); sizes in bytes, `blocks` in units of 512 bytes."""

    mode: int
    ino: int
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    blocks: int = 0
    lifetime: Lifetime = Lifetime.TIMEOUT


class Entry(NamedTuple):
    """A directory entry: a name with its type bits and inode number."""

    name: str
    mode: int
    ino: int


class AttributedEntries(Sequence[Entry]):
    """The entries of a directory, whose attributes cost no request."""

    @abstractmethod
    def attributed(self, start: int) -> "Iterator[tuple[Entry, Attrs | None]]":
        """Yield the entries from *start* on with their attributes; None where they may be
        outdated."""


def inode(path: str) -> int:
    """Return the inode number of *path*: equal on every mount, from 1 to 2^53 - 1.

    Two of a million paths collide with a probability of 1 in 18,000.
    """
    digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> (64 - INODE_BITS) or 1


def inode_base(path: str) -> int:
    """Return the inode number of the first member beneath *path*.

    Members are numbered in the archive's order, because programs such as grep and find read large
    directories by inode number: then they read what was fetched together.

    Numbers of two archives may overlap: with 20,000 archives of 5,000 files each the probability is
    1 in 4,500.
    """
    # Not the number of the directory itself, which may be shown beside the files.
    return inode(f"{path}/") % ((1 << INODE_BITS) - (1 << NUMBER_BITS)) + 1


def blocks_of(size: int) -> int:
    """Return *size* bytes in units of 512, rounded up."""
    return -(-size // BLOCK_UNIT)


class Node:
    """One file, directory or link; `path` has no leading slash, and is empty for the root."""

    def __init__(self, path: str) -> None:
        self.path = path

    def attrs(self) -> Attrs:
        """Return the attributes.

        Raises:
            NotFound: the node no longer exists.
        """
        raise NotFound(self.path)

    def lookup(self, name: str) -> "Node":
        """Return the child called *name*.

        Raises:
            NotFound: there is none.
            NotADirectory: this is a file or a link.
        """
        raise NotADirectory(self.path)

    def children(self) -> Iterable[Entry]:
        """Return the entries that a listing shows, in the order of readdir."""
        raise NotADirectory(self.path)

    def known_attrs(self, name: str) -> "Attrs | None":
        """Return the attributes of the child *name* if no request is needed, else None.

        A listing includes them, so that the kernel need not ask for each name. It does not call
        this if `children` are `AttributedEntries`.
        """
        return None

    def lifetime(self) -> Lifetime:
        """Return for how long the kernel may keep a listing that it reads now."""
        return Lifetime.TIMEOUT

    def contents(self) -> object:
        """Return a value that identifies the current names in the directory, None if there is none.

        The kernel may keep a listing as long as the value stays equal.
        """
        return None

    @property
    def etag(self) -> str:
        """The ETag of the remote object that holds the bytes; empty for other nodes."""
        return ""

    def target(self) -> str:
        """Return the target of a link."""
        raise NotADirectory(self.path)

    def open(self, *, writing: bool) -> Handle:
        """Return an open file.

        Raises:
            ReadOnly: *writing* is refused.
        """
        raise IsADirectory(self.path)

    def _refuse_writing(self, writing: bool) -> None:
        """Raise ReadOnly if a file without writes is opened for *writing*."""
        if writing:
            raise ReadOnly(f"{self.path} cannot be written")

    def change(self) -> None:
        """Accept a truncate, or new times or modes, without any effect; refused by default."""
        raise ReadOnly(f"{self.path} cannot be changed")

    def xattr_names(self) -> list[str]:
        """Return the names of the extended attributes."""
        return []

    def xattr(self, name: str) -> str:
        """Return the value of an extended attribute.

        Raises:
            NoAttribute: there is none of this name.
        """
        raise NoAttribute(name)

    def set_xattr(self, name: str, value: bytes, *, create: bool, replace: bool) -> None:
        """Set an extended attribute, with the flags of setxattr(2)."""
        raise ReadOnly(f"{self.path}: {name} cannot be set")

    def remove_xattr(self, name: str) -> None:
        """Remove an extended attribute."""
        raise ReadOnly(f"{self.path}: {name} cannot be removed")


class Directory(Node):
    """A node with children."""

    def open(self, *, writing: bool) -> Handle:
        raise IsADirectory(self.path)

    def child_path(self, name: str) -> str:
        """Return the path of the child *name*."""
        return f"{self.path}/{name}" if self.path else name

    def entry(self, name: str, mode: int) -> Entry:
        """Return the directory entry of the child *name*."""
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

"""`OpenDirectories`: answers the requests of open directories."""

import contextlib
import errno
import itertools
import stat
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from taskfs.errors import NotFound
from taskfs.fuse.attributes import FileAttributes
from taskfs.fuse.kernel.directory_cache import DirectoryCache
from taskfs.fuse.kernel.node_table import NodeTable
from taskfs.fuse.kernel.protocol import OPEN_OUT, READ_IN, RELEASE_IN, Packer
from taskfs.fuse.operations import DirectoryListing, TaskOperations
from taskfs.tree.nodes import DIRECTORY_MODE, Entry

_DOTS: Final = (Entry(".", DIRECTORY_MODE, 0), Entry("..", DIRECTORY_MODE, 0))


class _OpenDirectory:
    """An open directory with the listing of its last read from the start.

    For the program that reads names ahead, the listing is a part of the directory.
    """

    __slots__ = ("contents", "is_part", "listing", "path")

    def __init__(
        self, path: str, contents: object = None, part: DirectoryListing | None = None
    ) -> None:
        self.path = path
        self.contents = contents
        self.listing = part
        self.is_part = part is not None


class OpenDirectories:
    """The open directories of one mount, by number.

    *is_name_reader* says whether the calling process is the one that reads names ahead: see
    `name_reader`.

    Safe for concurrent use: the tables of nodes and listings have locks of their own, and the table
    of open directories changes by single operations of a dict.
    """

    def __init__(
        self,
        operations: TaskOperations,
        packer: Packer,
        nodes: NodeTable,
        is_name_reader: Callable[[], bool],
    ) -> None:
        self._operations = operations
        self._is_name_reader = is_name_reader
        self._packer = packer
        self._nodes = nodes
        self._cache = DirectoryCache()
        self._directories: dict[int, _OpenDirectory] = {}
        self._numbers = itertools.count(1)

    def open(self, nodeid: int) -> bytes:
        """Answer an OPENDIR."""
        path = self._nodes.path(nodeid)
        if self._is_name_reader():
            fh = next(self._numbers)
            part = self._operations("next_entries", path)
            self._directories[fh] = _OpenDirectory(path, part=part)
            return OPEN_OUT.pack(fh, 0, 0)
        contents = self._operations("opendir", path)  # a directory that is gone is ENOENT here
        fh = next(self._numbers)
        self._directories[fh] = _OpenDirectory(path, contents)
        return OPEN_OUT.pack(fh, self._cache.open(nodeid, contents), 0)

    def release(self, nodeid: int, body: memoryview) -> None:
        """Carry out a RELEASEDIR."""
        directory = self._directories.pop(RELEASE_IN.unpack_from(body)[0], None)
        if directory is not None and not directory.is_part:
            self._cache.close(nodeid, directory.contents)

    def forget(self, nodeid: int) -> None:
        """Note that the kernel may have forgotten a directory."""
        self._cache.forget(nodeid)

    def list(self, nodeid: int, body: memoryview, *, plus: bool) -> bytes:
        """Return the entries from the offset on that fit, for *plus* with the known attributes.

        Offsets count entries; `.` and `..` are the first two.
        """
        fh, offset, size = READ_IN.unpack_from(body)
        directory = self._directories.get(fh)
        if directory is None:
            raise OSError(errno.EBADF, "")
        with _without_enoent():
            if directory.listing is None or (not offset and not directory.is_part):
                directory.listing = self._operations("readdir", directory.path)
            return self._pack(nodeid, directory.listing, offset, size, plus=plus)

    def _pack(
        self, nodeid: int, listing: DirectoryListing, offset: int, size: int, *, plus: bool
    ) -> bytes:
        packer, nodes = self._packer, self._nodes
        answer: list[bytes] = []
        valid = packer.valid(listing.lifetime())
        head = packer.dirent_head(plus)
        for (text, mode, ino), attrs in _entries_from(listing, offset, plus=plus):
            name = text.encode("utf-8", "surrogateescape")
            size -= head + (len(name) + 7 & ~7)
            if size < 0:
                break
            offset += 1
            if not plus:
                answer.append(packer.dirent(name, ino or nodeid, mode, offset))
                continue
            child = 0
            if attrs is not None:
                child = nodes.add_lookup(nodeid, name, is_directory=stat.S_ISDIR(mode))
            answer.append(packer.direntplus(name, ino or nodeid, mode, offset, child, attrs, valid))
        return b"".join(answer)


def _entries_from(
    listing: DirectoryListing, offset: int, *, plus: bool
) -> Iterator[tuple[Entry, FileAttributes | None]]:
    """Return the entries of an answer, with their attributes if *plus* is set."""
    start = max(0, offset - len(_DOTS))
    if plus:
        entries = listing.attributed(start)
    else:
        names = map(listing.entries.__getitem__, range(start, len(listing.entries)))
        entries = ((entry, None) for entry in names)
    return chain(((dot, None) for dot in _DOTS[offset:]), entries)


@contextlib.contextmanager
def _without_enoent() -> Iterator[None]:
    """Turn ENOENT into EIO, because readdir(3) of glibc takes ENOENT for the end of the directory.

    A program would see an empty directory, and `rsync --delete` would empty its copy.
    """
    try:
        yield
    except (NotFound, FileNotFoundError) as exc:
        raise OSError(errno.EIO, "the directory is gone") from exc

"""`Tree`: from a path to a `Node`. It defines the file system, and knows no FUSE.

A name that cannot exist causes no request.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from taskfs.errors import NotFound
from taskfs.tree.context import TreeContext
from taskfs.tree.handle_table import HandleTable
from taskfs.tree.lifetime import Lifetime
from taskfs.tree.nodes import AttributedEntries, Attrs, Node
from taskfs.tree.root_node import RootNode
from taskfs.tree.task_node import DIRECTORIES

if TYPE_CHECKING:
    from taskfs.tree.archive_nodes import ArchiveDirectoryNode

# Directories whose nodes are kept. A program works in one at a time, and a node is small.
MAX_DIRECTORIES: Final = 256
# Seconds for which a resolved directory is used again: the default of `--attr-timeout`.
DIRECTORY_TTL_S: Final = 1.0


class Tree:
    """The whole tree. Safe for concurrent use, as its parts and the nodes are."""

    def __init__(self, context: TreeContext) -> None:
        self.context = context
        self._root = RootNode(context)
        # The directories of archives that were resolved last, because programs look up the names of
        # a directory one after another; with each its expiry, and `ArchiveRegistry.epoch` at that
        # time. Single operations of a dict need no lock.
        self._directories: dict[str, tuple[float, int, ArchiveDirectoryNode]] = {}
        # Called with the path of a directory whose next names should be read ahead; returns whether
        # they will be.
        self.on_lookups_in_order: Callable[[str], bool] | None = None

    def resolve(self, path: str) -> Node:
        """Return the node at *path*, which starts with a slash.

        Raises:
            NotFound: there is none.
            NotADirectory: the path continues beneath a file.
        """
        parent, _, last = path.rpartition("/")
        directory = self._directory(parent)
        if directory is not None and last:
            return directory.lookup(last)
        epoch = self.context.archives.epoch
        node: Node = self._root
        for name in parent.split("/"):
            if name:
                node = node.lookup(name)
        from taskfs.tree.archive_nodes import ArchiveDirectoryNode, ArchiveRootNode

        if isinstance(node, ArchiveRootNode):
            node = node.directory() or node
        if isinstance(node, ArchiveDirectoryNode):
            if len(self._directories) >= MAX_DIRECTORIES:
                self._directories.clear()
            self._directories[parent] = (time.monotonic() + DIRECTORY_TTL_S, epoch, node)
        return node.lookup(last) if last else node

    def attrs(self, path: str) -> Attrs:
        """Return the attributes of the node at *path*; raise as `resolve` does."""
        parent, _, last = path.rpartition("/")
        directory = self._directory(parent)
        if directory is None or not last:
            return self.resolve(path).attrs()
        attrs = directory.attrs_of(last)
        if (
            self.on_lookups_in_order is not None
            and directory.has_lookups_in_order()
            and self.on_lookups_in_order(parent)
        ):
            directory.expect_names()
        return attrs

    def next_entries(self, path: str) -> tuple[AttributedEntries, Callable[[], Lifetime]]:
        """Return the entries of the directory at *path* that a program will ask for next, and their
        `Node.lifetime`.

        Raises:
            NotFound: no directory of an archive was used there lately.
        """
        directory = self._directory(path)
        if directory is None:
            raise NotFound(path)
        return directory.next_entries(), directory.lifetime

    def is_loaded_directory(self, path: str) -> bool:
        """Whether an archive that is loaded has a directory at *path*; do not wait."""
        task_id, _, rest = path.strip("/").partition("/")
        shown, _, inner = rest.partition("/")
        cached = self.context.task_cache.get_cached(task_id)
        kind = DIRECTORIES.get(shown)
        if cached is None or kind is None:
            return False
        from taskfs.archive.index import Folder

        archive = self.context.archives.peek(cached.task, kind)
        return archive is not None and isinstance(archive.index.lookup(inner), Folder)

    def _directory(self, path: str) -> "ArchiveDirectoryNode | None":
        """Return the directory of an archive at *path* if it was resolved shortly before."""
        cached = self._directories.get(path)
        if cached is None:
            return None
        expiry_s, epoch, directory = cached
        is_valid = time.monotonic() <= expiry_s and epoch == self.context.archives.epoch
        return directory if is_valid else None

    @property
    def handles(self) -> HandleTable:
        """The open files."""
        return self.context.handles

"""`output.zip` and `input.zip`: an archive of a task as one file."""

from taskfs.archive.archive import Archive
from taskfs.model import Task
from taskfs.tasks.archive_kind import ArchiveKey, ArchiveKind
from taskfs.tasks.archives import ArchiveRegistry
from taskfs.tree.archive_handles import ArchiveHandle
from taskfs.tree.archive_nodes import ArchiveRange
from taskfs.tree.handles import Handle
from taskfs.tree.nodes import (
    FILE_MODE,
    Attrs,
    Node,
    blocks_of,
    inode,
)
from taskfs.tree.page_cache import PageCache


class RawArchiveNode(Node):
    """The archive, found by name and not listed."""

    def __init__(
        self,
        path: str,
        task: Task,
        kind: ArchiveKind,
        archive: Archive,
        archives: ArchiveRegistry,
        page_cache: PageCache,
    ) -> None:
        super().__init__(path)
        self._task = task
        self._key = ArchiveKey(task.id, kind)
        self._archive = archive
        self._archives = archives
        self._page_cache = page_cache

    def attrs(self) -> Attrs:
        task = self._task
        size = self._page_cache.reported_size(self._key, self.path, self._archive.size)
        mtime_ns = task.last_change_ns
        if self._key.kind is ArchiveKind.INPUT:
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

    @property
    def remote_path(self) -> tuple[str, str | None]:
        """The archive's path in the store, and the region."""
        return self._key.kind.path(self._task) or "", self._task.region

    @property
    def archive_range(self) -> ArchiveRange:
        """Where the file's bytes lie: in all of the archive."""
        return ArchiveRange(self._task, self._archive, range(self._archive.size))

    def open(self, *, writing: bool) -> Handle:
        self._refuse_writing(writing)
        archive = self._archive
        lease = self._page_cache.lease(self._key, archive.version, self.path, archive.size)
        return ArchiveHandle(archive.open_raw(), archive, lease, self._archives, self._page_cache)

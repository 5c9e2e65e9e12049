"""Resumes the interrupted download of a large member.

A decoder cannot start in the middle of a member. So the compressed blocks are kept in a directory
of the target until the file is complete, in the format of the disk cache: with checksums, and keyed
by the version of the archive, so that blocks of another version are never used.
"""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from taskfs.archive.archive import Archive
from taskfs.cache.disk_cache import DiskCache
from taskfs.core import open_archive_of, open_resources
from taskfs.download.fetch import SINGLE_FILE_ERRORS
from taskfs.download.items import MemberDownload
from taskfs.download.run import DownloadItem, DownloadRun
from taskfs.errors import StaleObject
from taskfs.remote.api_client import TaskClient
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from taskfs.tasks.archive_kind import ArchiveKind

# Compressed bytes from which a member is resumable. A smaller one downloads again in seconds, which
# is not worth the space of a second copy.
RESUMABLE_BYTES: Final = 32 << 20
BLOCKS_DIRECTORY: Final = ".taskfs-parts"
# The size limit of the cache, in lengths of its content. Nothing may be evicted, but the cache
# evicts at nine tenths of the limit and counts whole blocks of the file system.
LIMIT_FACTOR: Final = 2

Reopen = Callable[[DiskCache], Archive]


def reopener(client: TaskClient, task_id: str, kind: ArchiveKind) -> Reopen:
    """Return a function that opens an archive of the task on a disk cache."""

    def reopen(disk: DiskCache) -> Archive:
        resources = open_resources(Waiter(), Stats(), disk)
        return open_archive_of(client, client.get_task(task_id), kind, resources)

    return reopen


class RemovableDiskCache(DiskCache):
    """A disk cache that can be removed while readers still prefetch into it.

    The lock is held during each write, so that no write begins after the removal.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        super().__init__(directory, max_bytes)
        self._directory = directory
        self._write_lock = threading.Lock()
        self._is_removed = False

    def write_blocks(self, path: Path, first: int, run: memoryview) -> None:
        with self._write_lock:
            if not self._is_removed:
                super().write_blocks(path, first, run)

    def lock_range(
        self, key: str, first: int, last: int, is_on_disk: Callable[[], bool]
    ) -> contextlib.AbstractContextManager[None]:
        """Lock nothing: a lock file could be created after the removal."""
        return contextlib.nullcontext()

    def remove(self) -> None:
        """Remove the directory; later writes do nothing."""
        with self._write_lock:
            self._is_removed = True
            shutil.rmtree(self._directory, ignore_errors=True)


class KeptBlocks:
    """The kept compressed blocks of all large members that one target directory lacks.

    Safe for concurrent use: the lock guards the archive, which the first download opens, and the
    number of unfinished files.
    """

    def __init__(self, directory: Path, items: Sequence[MemberDownload], reopen: Reopen) -> None:
        self._blocks_path = directory / BLOCKS_DIRECTORY
        self._directory = directory
        self._compressed_bytes = sum(item.member.compressed_size for item in items)
        self._file_bytes = sum(item.remaining_bytes for item in items)
        self._unfinished = len(items)
        self._reopen = reopen
        self._lock = threading.Lock()
        self._archive: Archive | None = None
        self._cache: RemovableDiskCache | None = None

    def open(self, archive: Archive) -> Archive:
        """Return *archive* opened on the kept blocks, or itself if the disk is too full for them.

        Raises:
            StaleObject: the archive was replaced after the download was planned.
        """
        with self._lock:
            if self._archive is None:
                self._archive = self._open(archive)
            return self._archive

    def _open(self, archive: Archive) -> Archive:
        self._directory.mkdir(parents=True, exist_ok=True)
        available = shutil.disk_usage(self._directory).free + self._kept_bytes()
        if available < self._file_bytes + self._compressed_bytes:
            return archive
        self._cache = RemovableDiskCache(self._blocks_path, LIMIT_FACTOR * self._compressed_bytes)
        reopened = self._reopen(self._cache)
        if reopened.version != archive.version:
            raise StaleObject("the archive was replaced meanwhile: download it again")
        return reopened

    def _kept_bytes(self) -> int:
        """Return the disk space that an interrupted download already uses."""
        total = 0
        for parent, _, names in os.walk(self._blocks_path):
            for name in names:
                with contextlib.suppress(OSError):  # another download has just removed it
                    total += os.lstat(os.path.join(parent, name)).st_blocks * 512
        return total

    def note_finished(self) -> None:
        """Count a file that needs no blocks any more; remove the blocks after the last one."""
        with self._lock:
            self._unfinished -= 1
            if not self._unfinished and self._cache is not None:
                self._cache.remove()


@dataclass(frozen=True, slots=True)
class ResumableDownload:
    """Downloads a member and keeps its compressed blocks until the file is complete."""

    item: MemberDownload
    blocks: KeptBlocks

    @property
    def directory(self) -> Path:
        return self.item.directory

    @property
    def path(self) -> Path:
        return self.item.path

    @property
    def remaining_bytes(self) -> int:
        return self.item.remaining_bytes

    def download(self, run: DownloadRun) -> None:
        try:
            archive = self.blocks.open(self.item.archive)
            replace(self.item, archive=archive).download(run)
        except SINGLE_FILE_ERRORS:  # the next download would fail alike
            self.blocks.note_finished()
            raise
        self.blocks.note_finished()


def make_resumable(
    items: Sequence[DownloadItem], directory: Path, reopen: Reopen
) -> list[DownloadItem]:
    """Return *items*, downloads from one archive, with the large members made resumable.

    Their blocks are kept in *directory*. *reopen* opens the archive on a disk cache. Nothing is
    written yet.
    """
    large = [item for item in items if isinstance(item, MemberDownload) and _is_large(item)]
    if not large:
        return list(items)
    blocks = KeptBlocks(directory, large, reopen)
    return [
        ResumableDownload(item, blocks)
        if isinstance(item, MemberDownload) and _is_large(item)
        else item
        for item in items
    ]


def _is_large(item: MemberDownload) -> bool:
    return item.member.compressed_size >= RESUMABLE_BYTES

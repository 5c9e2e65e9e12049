"""Large members whose interrupted download goes on where it stopped.

Their compressed bytes are kept in a directory of the target until the file is whole, because the
decoder cannot begin in the middle. They are blocks of the disk cache: checksummed, and named after
the version of the archive, so another version's bytes are never taken.
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
from taskfs.core import open_engine, open_task_archive
from taskfs.download.fetch import DownloadItem, DownloadRun, MemberDownload
from taskfs.errors import StaleObject
from taskfs.remote.api_client import TaskClient
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from taskfs.tasks.archives import ArchiveKind

# A smaller file comes again sooner than its bytes are worth keeping twice.
RESUMABLE_BYTES: Final = 32 << 20
FOLDER: Final = ".taskfs-parts"
# The cache evicts at nine tenths, and counts whole file system blocks.
HEADROOM: Final = 2

Reopen = Callable[[DiskCache], Archive]


def reopener(client: TaskClient, task_id: str, kind: ArchiveKind) -> Reopen:
    """Return what opens an archive of the task on a disk cache."""

    def reopen(disk: DiskCache) -> Archive:
        engine = open_engine(Waiter(), Stats(), disk)
        return open_task_archive(client, client.get_task(task_id), kind, engine)

    return reopen


class PartsCache(DiskCache):
    """A disk cache that can be removed while readers still prefetch into it.

    The gate is held across each write, so that none begins once the directory is to go.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        super().__init__(directory, max_bytes)
        self._directory = directory
        self._gate = threading.Lock()
        self._is_removed = False

    def write(self, path: Path, first: int, run: memoryview) -> None:
        with self._gate:
            if not self._is_removed:
                super().write(path, first, run)

    def claim(
        self, key: str, first: int, last: int, is_there: Callable[[], bool]
    ) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # its files would come back after the removal

    def remove(self) -> None:
        """Remove the directory for good."""
        with self._gate:
            self._is_removed = True
            shutil.rmtree(self._directory, ignore_errors=True)


class TreeContext:
    """The kept bytes of the large members that one target still lacks.

    Safe for concurrent use: the lock guards the archive, which is opened by the first file that
    needs it, and the count of the files.
    """

    def __init__(self, target: Path, fetches: Sequence[MemberDownload], reopen: Reopen) -> None:
        self._folder = target / FOLDER
        self._target = target
        self._bytes = sum(fetch.member.compressed_size for fetch in fetches)
        self._output = sum(fetch.size for fetch in fetches)
        self._missing = len(fetches)
        self._reopen = reopen
        self._lock = threading.Lock()
        self._archive: Archive | None = None
        self._cache: PartsCache | None = None

    def open(self, plain: Archive) -> Archive:
        """Return *plain* with its blocks kept in the target, or as it is if they find no room.

        Raises:
            StaleObject: the archive was replaced after the download was planned.
        """
        with self._lock:
            if self._archive is None:
                self._archive = self._open(plain)
            return self._archive

    def _open(self, plain: Archive) -> Archive:
        self._target.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._target).free + self._kept() < self._output + self._bytes:
            return plain
        self._cache = PartsCache(self._folder, HEADROOM * self._bytes)
        archive = self._reopen(self._cache)
        if archive.version != plain.version:
            raise StaleObject("the archive was replaced meanwhile: download it again")
        return archive

    def _kept(self) -> int:
        """Return how many bytes of the disk an interrupted download has taken already."""
        found = 0
        for place, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(OSError):  # another download has just removed it
                    found += os.lstat(os.path.join(place, name)).st_blocks * 512
        return found

    def note_whole(self) -> None:
        """Remove the kept bytes once no file needs them."""
        with self._lock:
            self._missing -= 1
            if not self._missing and self._cache is not None:
                self._cache.remove()


@dataclass(frozen=True, slots=True)
class LargeFetch:
    """A member whose bytes are kept until the file is whole."""

    fetch: MemberDownload
    parts: TreeContext

    @property
    def path(self) -> Path:
        return self.fetch.path

    @property
    def size(self) -> int:
        return self.fetch.size

    def run(self, session: DownloadRun) -> None:
        archive = self.parts.open(self.fetch.archive)
        replace(self.fetch, archive=archive).run(session)
        self.parts.note_whole()


def make_resumable(
    fetches: Sequence[DownloadItem], target: Path, reopen: Reopen
) -> list[DownloadItem]:
    """Return *fetches* of one archive, of which the large ones keep what has come in *target*.

    *reopen* opens the archive again, on a cache. Nothing is written yet.
    """
    large = [fetch for fetch in fetches if isinstance(fetch, MemberDownload) and _is_large(fetch)]
    if not large:
        return list(fetches)
    parts = TreeContext(target, large, reopen)
    return [
        LargeFetch(fetch, parts)
        if isinstance(fetch, MemberDownload) and _is_large(fetch)
        else fetch
        for fetch in fetches
    ]


def _is_large(fetch: MemberDownload) -> bool:
    return fetch.member.compressed_size >= RESUMABLE_BYTES

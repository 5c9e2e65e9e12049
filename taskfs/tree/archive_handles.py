"""Open files of archives: every byte belongs to one version of the remote object."""

import time
from collections.abc import Callable
from typing import Final

from taskfs.archive.archive import Archive
from taskfs.archive.member_reader import MemberReader
from taskfs.cache.readahead import ReadAheadReader
from taskfs.errors import CorruptData, NotFound, StaleObject, Unavailable
from taskfs.support.buffers import Buffer
from taskfs.tasks.archives import ArchiveRegistry
from taskfs.tree.handles import PushableHandle, ReadOnlyHandle
from taskfs.tree.page_cache import Lease, PageCache, PageCacheMode

# Seconds. A read that the kernel repeats within this time after a timeout fails without a wait.
KERNEL_RETRY_S: Final = 0.2


class ArchiveHandle(ReadOnlyHandle):
    """A member or a raw archive: its bytes belong to one version of the remote object.

    Once that version is gone every read fails, cached bytes included: a program must not take half
    a file for a whole one.

    The kernel does not report a read-ahead that failed: it asks for the first page again. The
    handle fails that request without a wait, because it would take a second timeout.
    """

    def __init__(
        self,
        reader: MemberReader | ReadAheadReader,
        archive: Archive,
        lease: Lease,
        archives: ArchiveRegistry,
        page_cache: PageCache,
    ) -> None:
        self.mode = lease.mode
        self.size = lease.size
        self.version = archive.version
        self._reader = reader
        self._archive = archive
        self._lease = lease
        self._archives = archives
        self._page_cache = page_cache
        self._stale = ""  # why, once the version is gone
        self._timed_out_read: tuple[int, float, Unavailable] | None = None  # offset, time, failure

    def read_at(self, offset: int, size: int) -> Buffer:
        return self._read(self._reader.read_at, offset, size)

    def _read(self, read: Callable[[int, int], Buffer], offset: int, size: int) -> Buffer:
        if self._stale:
            raise StaleObject(self._stale)
        if offset + size > self.size and self._kernel_has_longer_version():
            raise StaleObject(f"{self._lease.path}: the kernel knows a newer, longer version")
        if offset >= self.size:
            return b""
        self._fail_kernel_retry(offset)
        try:
            piece = read(offset, size)
            self._archive.resources.stats.add("served_bytes", len(piece))
            return piece
        except Unavailable as exc:
            if self.mode is not PageCacheMode.DIRECT:
                self._timed_out_read = offset, time.monotonic(), exc
            raise
        except StaleObject as exc:
            self._stale = str(exc)
            self._archives.discard(self._lease.key, self._archive)
            raise
        except NotFound:
            self._archives.discard(self._lease.key, self._archive)
            raise
        except CorruptData:
            # The damage may be in the central directory, so the index is read again, too.
            self._page_cache.note_damaged(self._lease)
            self._archives.discard(self._lease.key, self._archive)
            raise

    def _kernel_has_longer_version(self) -> bool:
        """Whether the kernel knows a newer, longer version: it would fill the gap with zeros."""
        return self.mode is not PageCacheMode.DIRECT and self._page_cache.is_outdated(self._lease)

    def _fail_kernel_retry(self, offset: int) -> None:
        unanswered = self._timed_out_read
        if unanswered is None or unanswered[0] != offset:
            return
        self._timed_out_read = None
        if time.monotonic() - unanswered[1] < KERNEL_RETRY_S:
            raise Unavailable(str(unanswered[2]))

    def close(self) -> None:
        self._reader.close()
        self._page_cache.release(self._lease)


class MemberHandle(ArchiveHandle, PushableHandle):
    """A member of an archive, whose decoded bytes may be pushed."""

    _reader: MemberReader

    def close(self) -> None:
        super().close()
        part = self._reader.part_read
        if part is not None:
            self._archives.on_read(self._lease.key, part)

    def take_pushable(self) -> range:
        # The kernel keeps no pages of a file with direct I/O.
        is_kept = self.mode is not PageCacheMode.DIRECT and not self._stale
        return self._reader.take_pushable() if is_kept else range(0)

    def read_for_push(self, offset: int, size: int) -> Buffer:
        return self._read(self._reader.read_for_push, offset, size)

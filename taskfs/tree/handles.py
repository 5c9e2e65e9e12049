"""Open files: reads return the content of the moment of the open; a write acts at once."""

import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Protocol

from taskfs.archive.archive import Archive
from taskfs.archive.member_reader import MemberReader
from taskfs.cache.readahead import ReadAheadReader
from taskfs.errors import (
    BadHandle,
    CorruptData,
    NotFound,
    ReadOnly,
    StaleObject,
    Unavailable,
)
from taskfs.model import ObjectVersion
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from taskfs.tasks.archives import ArchiveRegistry
from taskfs.tree.held_texts import TextBody
from taskfs.tree.page_cache import Lease, PageCache, PageCacheMode

# Seconds. A read that the kernel repeats within this time after a timeout fails at once.
KERNEL_RETRY_S: Final = 0.2


class Handle(Protocol):
    """One open file: its size in bytes, and the version of the remote object that it reads."""

    mode: PageCacheMode

    @property
    def size(self) -> int: ...
    @property
    def version(self) -> ObjectVersion | None: ...

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size) of the file, fewer only at its end."""
        ...

    def write(self, piece: bytes) -> int:
        """Act on *piece*; return how many bytes of it count as written."""
        ...

    def close(self) -> None:
        """Release what the open file holds."""
        ...


class PushableHandle(ABC):
    """The optional part of a `Handle`: bytes that may be given to the kernel before they are read.

    Only an engine that can push pages asks for them.
    """

    @abstractmethod
    def take_pushable(self) -> range:
        """Return bytes in memory that a sequential reader needs next; each is returned once."""

    @abstractmethod
    def read_for_push(self, offset: int, size: int) -> Buffer:
        """Read bytes that `take_pushable` returned; this does not count as a read by a program."""


class TextHandle:
    """The text of a text file as it was rendered for the open."""

    mode = PageCacheMode.DIRECT
    version = None

    def __init__(self, text: TextBody) -> None:
        self.size = len(text)
        self._text = text

    def read_at(self, offset: int, size: int) -> Buffer:
        return self._text[offset : offset + size]

    def write(self, piece: bytes) -> int:
        raise ReadOnly("the file cannot be written")

    def close(self) -> None:
        pass


class ControlHandle:
    """A control file: the first byte that is written through it starts one request.

    Later writes through the same handle start nothing and get the outcome of that request, because
    a shell may cut one line into several writes. A write that is interrupted stops waiting; the
    request continues. *start* never waits, so the request is under way before a writer can be
    interrupted. Safe for concurrent use: the lock makes the request start once.
    """

    mode = PageCacheMode.DIRECT
    size = 0
    version = None

    def __init__(self, start: Callable[[], "Future[None]"], waiter: Waiter) -> None:
        self._start = start
        self._waiter = waiter
        self._lock = threading.Lock()
        self._request: Future[None] | None = None

    def read_at(self, offset: int, size: int) -> Buffer:
        return b""

    def write(self, piece: bytes) -> int:
        if piece:
            with self._lock:
                if self._request is None:
                    self._request = self._try_start()
            self._waiter.result(self._request)
        return len(piece)

    def _try_start(self) -> "Future[None]":
        try:
            return self._start()
        except Exception as exc:
            failed: Future[None] = Future()
            failed.set_exception(exc)
            return failed

    def close(self) -> None:
        pass


class ArchiveHandle:
    """A member or a raw archive: its bytes belong to one version of the remote object.

    Once that version is gone every read fails, cached bytes included: a program must not take half
    a file for a whole one.

    The kernel does not report a read-ahead that failed: it asks for the first page again. The
    handle fails that request at once, because another wait would take a second timeout.
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

    def write(self, piece: bytes) -> int:
        raise ReadOnly("the file cannot be written")

    def close(self) -> None:
        self._reader.close()
        self._page_cache.release(self._lease)


class MemberHandle(ArchiveHandle, PushableHandle):
    """A member of an archive, whose decoded bytes may be pushed."""

    _reader: MemberReader

    def take_pushable(self) -> range:
        # The kernel keeps no pages of a file with direct I/O.
        is_kept = self.mode is not PageCacheMode.DIRECT and not self._stale
        return self._reader.take_pushable() if is_kept else range(0)

    def read_for_push(self, offset: int, size: int) -> Buffer:
        return self._read(self._reader.read_for_push, offset, size)


class HandleTable:
    """The open files by number. Safe for concurrent use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._handles: dict[int, Handle] = {}

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, handle: Handle) -> int:
        """Return a number for *handle* that no other open file has had before."""
        with self._lock:
            number = next(self._numbers)
            self._handles[number] = handle
            return number

    def get(self, number: int) -> Handle:
        """Return the open file with this number.

        Raises:
            BadHandle: there is none.
        """
        try:
            return self._handles[number]
        except KeyError:
            raise BadHandle(f"no open file has the number {number}") from None

    def close(self, number: int) -> None:
        """Close the file and forget its number."""
        with self._lock:
            handle = self._handles.pop(number, None)
        if handle is not None:
            handle.close()

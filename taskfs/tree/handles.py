"""Open files: what an open returned stays what its reads give, and a write acts at once."""

import itertools
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from taskfs.archive.archive import Archive
from taskfs.archive.member_reader import MemberReader
from taskfs.cache.readahead import ReadAheadReader
from taskfs.errors import (
    BadAnswer,
    BadHandle,
    CorruptData,
    Interrupted,
    NotFound,
    ReadOnly,
    StaleObject,
    TaskFSError,
    Unavailable,
)
from taskfs.model import ObjectVersion
from taskfs.support.buffers import Buffer
from taskfs.tasks.archives import ArchiveRegistry, Lease, PageCacheMode

REPETITION_S: Final = 0.2


class Handle(Protocol):
    """One open file: how many bytes it has, and of which version of a remote object they are."""

    mode: PageCacheMode

    @property
    def size(self) -> int: ...
    @property
    def version(self) -> ObjectVersion | None: ...

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size) of the file, fewer only at its end."""
        ...

    def take_pushable(self) -> range:
        """Return the bytes that a reader in order wants next and that cost no wait: told once."""
        ...

    def read_for_push(self, offset: int, size: int) -> Buffer:
        """As `read_at`, of what was claimed: nobody has asked for it yet."""
        ...

    def write(self, piece: bytes) -> int:
        """Act on *piece*, return how many bytes of it count as written."""
        ...

    def close(self) -> None:
        """Give up what the open file holds."""
        ...


class TextHandle:
    """The text of a control file as it was when it was opened."""

    mode = PageCacheMode.DIRECT
    version = None

    def __init__(self, text: bytes) -> None:
        self.size = len(text)
        self._text = text

    def read_at(self, offset: int, size: int) -> Buffer:
        return self._text[offset : offset + size]

    read_for_push = read_at

    def take_pushable(self) -> range:
        return range(0)

    def write(self, piece: bytes) -> int:
        raise ReadOnly("the file cannot be written")

    def close(self) -> None:
        pass


class CommandHandle:
    """A control file that acts: the first byte written through it sends one request.

    Safe for concurrent use. Later writes through the same handle send nothing and get the first
    one's outcome, since a shell may cut one line into several writes. To be interrupted is no
    outcome: who writes again after a signal goes on waiting, so *command* may be called again
    after it raised Interrupted, and must send nothing twice.
    """

    mode = PageCacheMode.DIRECT
    size = 0
    version = None

    def __init__(self, command: Callable[[], None]) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._is_done = False
        self._failure: TaskFSError | None = None

    def read_at(self, offset: int, size: int) -> Buffer:
        return b""

    read_for_push = read_at

    def take_pushable(self) -> range:
        return range(0)

    def write(self, piece: bytes) -> int:
        if not piece:
            return 0
        with self._lock:
            if not self._is_done:
                self._act()
            if self._failure is not None:
                raise self._failure
        return len(piece)

    def _act(self) -> None:
        try:
            self._command()
        except Interrupted:
            raise
        except TaskFSError as exc:
            self._failure = exc
        except Exception as exc:
            self._failure = BadAnswer(f"failed before: {type(exc).__name__}")
            self._is_done = True
            raise
        self._is_done = True

    def close(self) -> None:
        pass


class ArchiveHandle:
    """A member or a raw archive: its bytes belong to one version of the remote object.

    Once that version is gone, every read fails: what the blocks still hold of it is not served,
    so that nobody sees half a file end well.

    Where a read-ahead fails, the kernel tells nobody, and asks for its first page once more. That
    request has had its answer: to wait for the network again would take a second timeout.
    """

    def __init__(
        self,
        reader: MemberReader | ReadAheadReader,
        size: int,
        archive: Archive,
        lease: Lease,
        mode: PageCacheMode,
        archives: ArchiveRegistry,
    ) -> None:
        self.mode = mode
        self.size = size
        self.version = archive.version
        self._reader = reader
        self._archive = archive
        self._lease = lease
        self._archives = archives
        self._stale = ""  # why, once the version is gone
        self._unanswered: tuple[int, float, Unavailable] | None = None  # at which offset, and when

    def read_at(self, offset: int, size: int) -> Buffer:
        return self._read(self._reader.read_at, offset, size)

    def read_for_push(self, offset: int, size: int) -> Buffer:
        return self._read(self._reader.read_for_push, offset, size)

    def _read(self, read: Callable[[int, int], Buffer], offset: int, size: int) -> Buffer:
        if self._stale:
            raise StaleObject(self._stale)
        if offset + size > self.size and self._is_cut_elsewhere():
            raise StaleObject(f"{self._lease.path}: the kernel has the size of another version")
        if offset >= self.size:
            return b""
        self._refuse_repetition(offset)
        task_id, kind = self._lease.key
        try:
            piece = read(offset, size)
            self._archive.engine.stats.add("served_bytes", len(piece))
            return piece
        except Unavailable as exc:
            if self.mode is not PageCacheMode.DIRECT:
                self._unanswered = offset, time.monotonic(), exc
            raise
        except StaleObject as exc:
            self._stale = str(exc)
            self._archives.replaced(task_id, kind, self._archive)
            raise
        except NotFound:
            self._archives.replaced(task_id, kind, self._archive)
            raise
        except CorruptData:
            self._archives.damaged(task_id, kind, self._archive, self._lease.path)
            raise

    def take_pushable(self) -> range:
        # The kernel keeps no pages of what it reads directly.
        is_kept = self.mode is not PageCacheMode.DIRECT and not self._stale
        return self._reader.take_pushable() if is_kept else range(0)

    def _is_cut_elsewhere(self) -> bool:
        """Whether the kernel fills what lacks behind this version's end, up to a newer one's."""
        return self.mode is not PageCacheMode.DIRECT and self._archives.is_outdated(self._lease)

    def _refuse_repetition(self, offset: int) -> None:
        unanswered = self._unanswered
        if unanswered is None or unanswered[0] != offset:
            return
        self._unanswered = None
        if time.monotonic() - unanswered[1] < REPETITION_S:
            raise Unavailable(str(unanswered[2]))

    def write(self, piece: bytes) -> int:
        raise ReadOnly("the file cannot be written")

    def close(self) -> None:
        self._reader.close()
        self._archives.release(self._lease)


class HandleTable:
    """The open files by number. Safe for concurrent use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._handles: dict[int, Handle] = {}

    def __len__(self) -> int:
        return len(self._handles)

    def add(self, handle: Handle) -> int:
        """Return a number for *handle* that no other open file has had."""
        with self._lock:
            number = next(self._numbers)
            self._handles[number] = handle
            return number

    def get(self, number: int) -> Handle:
        """Return the open file; BadHandle if there is none of that number."""
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

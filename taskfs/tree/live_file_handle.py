"""Open files of `live/`: they outlive their task's machine, and continue from its archive."""

import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from taskfs.errors import NotADirectory, NotFound, StaleObject, TooLarge, Unavailable
from taskfs.support.buffers import Buffer
from taskfs.tasks.live_end import member_shift
from taskfs.tasks.live_file import Snapshot
from taskfs.tasks.live_handle import LiveHandle
from taskfs.tree.handles import Handle, ReadOnlyHandle
from taskfs.tree.page_cache import PageCacheMode

STALE: Final = "the task has ended, and its archive does not continue what was read"


class _Continuation(NamedTuple):
    """The archive's member with which a file continues; *shift* is that of `member_shift`."""

    member: Handle
    shift: int


class LiveFileHandle(ReadOnlyHandle):
    """One open file of `live/`.

    While the task is live, reads ask its machine. Afterwards they return what is known, and once
    the archive has arrived, they continue from its member.

    Safe for concurrent use: the lock guards the continuation, and is never held during a request.
    *is_live* returns whether the task is live. *open_member* opens the archive's member of the same
    name; it returns None while there is no archive, and raises NotFound where that has none.
    """

    mode = PageCacheMode.DIRECT
    version = None

    def __init__(
        self,
        live: LiveHandle,
        is_live: Callable[[], bool],
        open_member: Callable[[], Handle | None],
        on_close: Callable[["LiveFileHandle"], None],
    ) -> None:
        self._live = live
        self._is_live = is_live
        self._open_member = open_member
        self._on_close = on_close
        self._lock = threading.Lock()
        self._has_ended = False
        self._is_stale = False
        self._is_closed = False
        self._continuation: _Continuation | None = None

    @property
    def size(self) -> int:
        return self._live.snapshot.size

    @property
    def snapshot(self) -> Snapshot:
        """The file as its machine last showed it."""
        return self._live.snapshot

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size), fewer only at the end as of now.

        Raises:
            StaleObject: the file was rewritten, or the archive does not continue it (ESTALE).
            TooLarge: of so large a file, only the end can be read (EFBIG).
        """
        if not self._has_ended:
            try:
                return self._live.read(offset, size)
            except Unavailable:
                # A machine stops answering shortly before its task has ended.
                if self._is_live():
                    raise
                self.end()
        continuation = self._find_continuation()
        if continuation is None:
            return self._live.snapshot.read(offset, size)
        member, shift = continuation
        if offset + shift < 0:
            raise TooLarge("the beginning of this file was never read: open it in outputs/")
        return member.read_at(offset + shift, size)

    def end(self) -> None:
        """Note that the task has ended: reads do not ask the machine any more."""
        if not self._has_ended:
            self._live.end()
        self._has_ended = True

    def size_after_end(self) -> int:
        """Return the size of the file, whose task has ended. Raises StaleObject."""
        continuation = self._find_continuation()
        if continuation is None:
            return self._live.snapshot.size
        return continuation.member.size - continuation.shift

    def _find_continuation(self) -> _Continuation | None:
        """Return where reading continues, None while there is no archive; raise StaleObject."""
        if self._continuation is not None:
            return self._continuation
        if self._is_stale:
            raise StaleObject(STALE)
        try:
            member = self._open_member()
            found = None if member is None else self._continue_with(member)
        except (NotFound, NotADirectory, StaleObject) as exc:
            self._is_stale = True
            raise StaleObject(STALE) from exc
        if found is None:
            return None
        with self._lock:
            if self._continuation is None and not self._is_closed:
                self._continuation = found
                return found
        found.member.close()  # another thread has set it, or the file is closed
        return self._continuation

    def _continue_with(self, member: Handle) -> _Continuation:
        """Return the continuation in *member*; close it and raise where it does not continue."""
        try:
            shift = member_shift(
                self._live.snapshot,
                member.size,
                lambda offset, size: bytes(member.read_at(offset, size)),
            )
            if shift is None:
                raise StaleObject(STALE)
        except BaseException:
            member.close()
            raise
        return _Continuation(member, shift)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            continuation, self._continuation = self._continuation, None
        if continuation is not None:
            continuation.member.close()
        self._live.close()
        self._on_close(self)


class SnapshotHandle(ReadOnlyHandle):
    """A file of `live/` as it was when it was opened, for readers that need a constant size."""

    mode = PageCacheMode.DIRECT
    version = None

    def __init__(self, live: LiveHandle) -> None:
        self.size = live.snapshot.size
        self._snapshot = live.snapshot
        live.close()  # the snapshot keeps its bytes

    def read_at(self, offset: int, size: int) -> Buffer:
        return self._snapshot.read(offset, size)

    def close(self) -> None:
        pass

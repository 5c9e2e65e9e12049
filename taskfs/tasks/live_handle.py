"""`LiveHandle`: an open file of a running task."""

from collections.abc import Callable

from taskfs.errors import NotFound, StaleObject
from taskfs.tasks.live_file import Snapshot, check_generation


class LiveHandle:
    """An open file of a running task. Safe for concurrent use.

    The middle is read from the snapshot; a read that reaches its end asks for what was appended.
    *ask* returns a snapshot as of now, *known* the latest one without a question, and *release* is
    called once, at `close`.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        ask: Callable[[], Snapshot],
        known: Callable[[], Snapshot | None],
        release: Callable[[], None],
    ) -> None:
        self.snapshot = snapshot
        self._ask = ask
        self._known = known
        self._release = release
        self._is_open = True

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes [offset, offset + size), fewer at the end of the file.

        Raises:
            StaleObject: the file was rewritten since it was opened (ESTALE).
            TooLarge: of so large a file, only the end can be read (EFBIG).
        """
        snapshot = self.snapshot
        if offset + size > snapshot.size:
            snapshot = self.update()
        return snapshot.read(offset, size)

    def size(self) -> int:
        """Return the size as of now. Raises StaleObject."""
        return self.update().size

    def update(self) -> Snapshot:
        """Return a snapshot of now, which continues the one before. Raises StaleObject."""
        try:
            after = self._ask()
        except NotFound as exc:
            raise StaleObject("the file was removed since it was opened") from exc
        check_generation(self.snapshot, after)
        self.snapshot = after
        return after

    def end(self) -> None:
        """Take what a stat or another handle has read since, because reads ask no machine now."""
        known = self._known()
        if known is not None and known.generation == self.snapshot.generation:
            self.snapshot = known

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._release()

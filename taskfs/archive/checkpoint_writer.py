"""`CheckpointWriter`: writes checkpoints of one member to disk while its cursors pass them."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from taskfs.archive import isal
from taskfs.archive.block_start import find_block_start
from taskfs.archive.bounds import MAX_STEP_SPANS, SPAN, STRETCH
from taskfs.archive.decode_cursor import Checkpoint, CompressedSource, DecodeCursor
from taskfs.archive.disk_checkpoints import DiskCheckpoints

# Decoded bytes by which a cursor has passed a checkpoint before it is saved. The compressed bytes
# in which the next block is looked for are then in memory. From one delay to the next, a jump takes
# few steps, all of the largest size: pooled buffers of other sizes would have to be cleared.
SAVE_DELAY: Final = MAX_STEP_SPANS * SPAN
# Checkpoints that wait to be saved, with some 120 KB each; others are not saved meanwhile.
MAX_QUEUED: Final = 4


class _Pending(NamedTuple):
    """A checkpoint that a cursor has passed, and that is to be saved."""

    number: int
    checkpoint: Checkpoint
    before: bytes  # the decoded bytes before it
    drop_count: int


class CheckpointWriter:
    """Finds and writes the checkpoints of one member in a thread of *pool*.

    Safe for concurrent use: the lock guards the tables.
    """

    def __init__(
        self, disk: DiskCheckpoints, open_source: Callable[[int], CompressedSource], pool: Executor
    ) -> None:
        self._disk = disk
        self._open_source = open_source
        self._pool = pool
        self._lock = threading.Lock()
        self._pending: WeakKeyDictionary[DecodeCursor, _Pending] = WeakKeyDictionary()
        self._saving: dict[int, Future[None]] = {}

    def note(self, cursor: DecodeCursor, output: memoryview) -> None:
        """Note that *cursor*, which the caller has marked busy, moved to the end of *output*."""
        at = cursor.output_offset
        with self._lock:
            pending = self._pending.get(cursor)
            if pending and (
                at >= pending.checkpoint.output_offset + SAVE_DELAY or cursor.is_at_end
            ):
                del self._pending[cursor]
                self._submit(pending)
        if at % STRETCH or cursor.is_at_end or self._disk.has(at // STRETCH):
            return
        checkpoint = cursor.checkpoint()
        if checkpoint is not None:
            before = bytes(output[-isal.WINDOW :])
            pending = _Pending(at // STRETCH, checkpoint, before, self._disk.drop_count)
            with self._lock:
                self._pending[cursor] = pending

    def flush(self) -> None:
        """Save what the cursors have passed: they move no further."""
        with self._lock:
            for cursor in list(self._pending):
                self._submit(self._pending.pop(cursor))

    def when_saved(self, number: int, release: Callable[[], None]) -> None:
        """Call *release* once the checkpoint *number* is saved, or now if it is not about to be."""
        with self._lock:
            future = self._saving.get(number)
        if future is None:
            release()
        else:
            future.add_done_callback(lambda _: release())

    def _submit(self, pending: _Pending) -> None:
        """Save a checkpoint in the pool. The caller holds the lock."""
        if len(self._saving) < MAX_QUEUED and pending.number not in self._saving:
            # the mount is ending, or the system has no thread left
            with contextlib.suppress(RuntimeError):
                self._saving[pending.number] = self._pool.submit(self._save, pending)

    def _save(self, pending: _Pending) -> None:
        try:
            start = find_block_start(pending.checkpoint, pending.before, self._open_source)
            if start is not None:
                self._disk.save(pending.number, start, pending.drop_count)
        finally:
            with self._lock:
                self._saving.pop(pending.number, None)

"""`PackedPage`: one page of a listing in little memory."""

import zlib
from collections.abc import Iterator

import msgspec

from taskfs.model import Task, TaskPage


class PackedPage:
    """The page *number* of a listing, whose request began at *began_s*.

    The tasks are compressed in batches, because a page of them takes megabytes in thousands of
    pieces, which leave gaps in the memory of the process. One thread at a time uses it.
    """

    def __init__(self, number: int, began_s: float) -> None:
        self.number = number
        self.began_s = began_s
        self.count = 0  # of tasks
        self.rest = TaskPage([], 0)  # the page without its tasks
        self._batches: list[bytes] = []

    def add(self, tasks: list[Task]) -> None:
        """Add the next tasks."""
        self.count += len(tasks)
        self._batches.append(zlib.compress(msgspec.msgpack.encode(tasks), 1))

    def batches(self) -> Iterator[list[Task]]:
        """Yield the tasks; one batch is in memory at a time."""
        for batch in self._batches:
            yield msgspec.msgpack.decode(zlib.decompress(batch), type=list[Task])

"""`PersistentBlocks`: the blocks of one object version that outlive the process."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Protocol

from taskfs.support.buffers import Buffer


class PersistentBlocks(Protocol):
    """The blocks of one object version on disk. No method raises: what fails is a miss."""

    def files(self, first: int, stop: int) -> list[str]:
        """Return the names of the files for the blocks [first, stop)."""
        ...

    def present(self, first: int, stop: int) -> list[int]:
        """Return which of the blocks [first, stop) seem to be on disk, in order."""
        ...

    def get(self, first: int, count: int = 1) -> Buffer | None:
        """Return up to *count* adjacent valid blocks from *first* on, or None.

        Only the last one may be shorter than a block.
        """
        ...

    def put(self, first: int, run: Buffer) -> None:
        """Store the blocks of *run*, from *first* on."""
        ...

    def drop(self, first: int, last: int) -> None:
        """Remove the blocks [first, last]."""
        ...

    def lock_range(self, first: int, last: int) -> contextlib.AbstractContextManager[None]:
        """Lock the blocks [first, last] against fetches by other processes."""
        ...


def fetch_missing(
    on_disk: Iterable[tuple[int, int, Buffer]],
    fetch: Callable[[int, int], Buffer],
    first: int,
    stop: int,
) -> Buffer:
    """Return the blocks [first, stop); fetch those that are not in *on_disk*.

    *on_disk* yields runs (first, stop, bytes) in order. It may have gained blocks while the caller
    waited for a lock, because the process that held the lock wrote them.
    """
    pieces: list[Buffer] = []
    for begin, end, run in on_disk:
        if first < begin:
            pieces.append(fetch(first, begin))
        pieces.append(run)
        first = end
    if first < stop:
        pieces.append(fetch(first, stop))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

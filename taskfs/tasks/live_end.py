"""Reading on from the archive after the end of a task, where a file of its machine was open."""

from collections.abc import Callable
from typing import Final

from taskfs.tasks.live_file import HOLE_BYTES, Snapshot

CHUNK_BYTES: Final = 1 << 20  # bytes that are compared at once
# Bytes at the end of the archive's member that are searched for the known end of a large file. The
# member also holds what was written after that end was read.
SEARCH_BYTES: Final = 64 << 20
# Bytes of the known end that are searched for. If they occur once, all of the end is compared.
NEEDLE_BYTES: Final = 16 << 10


def member_shift(
    snapshot: Snapshot, member_size: int, read: Callable[[int, int], bytes]
) -> int | None:
    """Return what to add to an offset in *snapshot* for the same byte in the archive's member.

    The shift is 0 where offsets are true. It is negative where *snapshot* is the end of a large
    file after an invented hole. None if the member does not continue the bytes that were
    returned: then the open file is stale.

    *read* returns the member's bytes [offset, offset + size), and its errors pass through.
    """
    if snapshot.hole < HOLE_BYTES:
        return 0 if _is_within(snapshot, 0, member_size, read) else None
    needle = snapshot.read(snapshot.hole, NEEDLE_BYTES)
    start = max(0, member_size - SEARCH_BYTES)
    end = b"".join(
        read(offset, min(CHUNK_BYTES, member_size - offset))
        for offset in range(start, member_size, CHUNK_BYTES)
    )
    found = end.find(needle)
    if not needle or found < 0 or end.find(needle, found + 1) >= 0:
        return None
    shift = start + found - snapshot.hole
    return shift if _is_within(snapshot, shift, member_size, read) else None


def _is_within(
    snapshot: Snapshot, shift: int, member_size: int, read: Callable[[int, int], bytes]
) -> bool:
    if snapshot.size + shift > member_size:
        return False
    for offset in range(snapshot.hole, snapshot.size, CHUNK_BYTES):
        known = snapshot.read(offset, CHUNK_BYTES)
        if read(offset + shift, len(known)) != known:
            return False
    return True

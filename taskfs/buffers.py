"""Bytes without copies: what the read engine hands from one part to the next."""

import ctypes
import mmap
from typing import Final

Buffer = bytes | bytearray | memoryview  # nobody changes them any more

LARGE: Final = 256 << 10
ROOM: Final = 4 << 20  # the longest range of one request
MAX_SPARE: Final = 2
_spare: Final[list[mmap.mmap]] = []


def allocate(size: int) -> memoryview:
    """Return room for *size* bytes, to be filled once; what it held before is undefined."""
    if size < LARGE:
        return memoryview(bytearray(size))
    if not ROOM // 4 * 3 < size <= ROOM:
        return memoryview(_map(size))
    try:
        room = _spare.pop()
    except IndexError:
        room = _map(ROOM)
        room.madvise(mmap.MADV_HUGEPAGE)
    borrowed = _Borrowed.from_buffer(room)
    borrowed.room = room
    return memoryview(borrowed).cast("B")[:size]


def give_spare_back() -> None:
    """Return to the system what nobody has asked for again."""
    _spare.clear()


def _map(size: int) -> mmap.mmap:
    # Its pages are made as they are filled, which may be outside of the interpreter's lock, and go
    # back to the system with the last view: nothing of it stays in an allocator's arenas.
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class _Borrowed(ctypes.c_char * ROOM):  # type: ignore[misc]
    """Room that is used again once its last view is gone: the system would make its pages anew, and
    to clear them costs more than what is put there."""

    room: mmap.mmap

    def __del__(self, spare: list[mmap.mmap] = _spare) -> None:
        if len(spare) < MAX_SPARE:
            spare.append(self.room)


def has_address(buffer: Buffer) -> bool:
    """Whether Python tells where *buffer* is: of a read-only view it does not."""
    return not (isinstance(buffer, memoryview) and buffer.readonly)


def addressable(buffer: Buffer) -> Buffer:
    """Return *buffer*, or a copy of it where it has no address."""
    return buffer if has_address(buffer) else bytes(buffer)


def address_of(buffer: Buffer) -> int:
    """Return where the bytes of *buffer* are in memory, for as long as it lives; 0 for none."""
    if not has_address(buffer):
        raise ValueError("a read-only view has no address: see addressable")
    if isinstance(buffer, bytes):
        return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if len(buffer) else 0

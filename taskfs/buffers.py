"""Bytes without copies: what the read engine hands from one part to the next."""

import ctypes
import mmap
from typing import Final

Buffer = bytes | bytearray | memoryview  # nobody changes them any more

LARGE: Final = 256 << 10
HUGE_PAGE: Final = 2 << 20


def allocate(size: int) -> memoryview:
    """Return room for *size* bytes, to be filled once."""
    if size < LARGE:
        return memoryview(bytearray(size))
    # Its pages are made as they are filled, which may be outside of the interpreter's lock, and go
    # back to the system with the last view: nothing of it stays in an allocator's arenas.
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= HUGE_PAGE:
        room.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(room)


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

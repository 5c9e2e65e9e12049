"""Bytes without copies: what the read engine hands from one part to the next."""

import ctypes
import mmap
from typing import Final

from taskfs.support.fallback import note_refusal

Buffer = bytes | bytearray | memoryview  # nobody changes them any more

LARGE: Final = 256 << 10
# What is borrowed and given back all the time: stretches that are decoded, ranges that are fetched.
POOLED_SIZES: Final = (512 << 10, 1 << 20, 2 << 20, 4 << 20)
MAX_SPARE: Final = 16 << 20  # bytes of all of them together


def allocate(size: int) -> memoryview:
    """Return room for *size* bytes, to be filled once; what it held before is undefined."""
    if size < LARGE:
        return memoryview(bytearray(size))
    for kind in _KINDS:
        if kind.length // 4 * 3 < size <= kind.length:
            return kind.borrow()[:size]
    return memoryview(_map(size))


def trim_pools() -> None:
    """Return to the system what nobody has asked for again."""
    for kind in _KINDS:
        kind.has_fallback.clear()


def _map(size: int) -> mmap.mmap | bytearray:
    # Its pages are made as they are filled, which may be outside of the interpreter's lock, and go
    # back to the system with the last view: nothing of it stays in an allocator's arenas.
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as exc:  # for example vm.max_map_count is reached
        note_refusal("mmap", exc)
        return bytearray(size)


def _use_huge_pages(room: mmap.mmap | bytearray) -> None:
    """Ask for huge pages, which kernels without transparent huge pages refuse."""
    if isinstance(room, mmap.mmap):
        try:
            room.madvise(mmap.MADV_HUGEPAGE)
        except (OSError, AttributeError) as exc:
            note_refusal("madvise", exc)


_KINDS: "Final[list[BufferPool]]" = []


class BufferPool:
    """Rooms of one length that are used again once their last view is gone: the system would make
    their pages anew, and to clear them costs more than what is put there."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.has_fallback: list[mmap.mmap | bytearray] = []
        # Not by their names: at the end of a process there are none.
        has_fallback, kinds, most = self.has_fallback, _KINDS, MAX_SPARE

        class Borrowed(ctypes.c_char * length):  # type: ignore[misc]
            room: mmap.mmap | bytearray

            def __del__(self) -> None:
                if sum(each.length * len(each.has_fallback) for each in kinds) + length <= most:
                    has_fallback.append(self.room)

        self._borrowed = Borrowed

    def borrow(self) -> memoryview:
        try:
            room = self.has_fallback.pop()
        except IndexError:
            room = _map(self.length)
            _use_huge_pages(room)
        borrowed = self._borrowed.from_buffer(room)
        borrowed.room = room
        return memoryview(borrowed).cast("B")


_KINDS.extend(map(BufferPool, POOLED_SIZES))


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

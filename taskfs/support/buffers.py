"""Buffers for fetched and decoded bytes, which pass through the read path without copies."""

import ctypes
import mmap
from typing import Final

from taskfs.support.fallback import log_fallback

Buffer = bytes | bytearray | memoryview  # by convention not changed once it is filled

# Bytes from which a buffer is mapped, or comes from a pool, instead of the allocator: one block of
# the caches, because blocks that come and go would leave gaps in the allocator's memory.
LARGE: Final = 64 << 10
# Lengths of the pooled buffers: those of blocks, of decoded chunks and of fetched ranges.
POOLED_SIZES: Final = tuple(1 << bits for bits in range(16, 23))
# Bytes from which a pooled buffer gets huge pages. A huge page under a shorter one also holds its
# neighbours, and stays in memory until the last of them is gone.
HUGE: Final = 512 << 10
# Bytes that all pools together keep, until memory is tight or they are unused for some seconds:
# ranges that are being fetched, and steps of a decoder.
MAX_POOLED: Final = 16 << 20


def allocate(size: int) -> memoryview:
    """Return a buffer of *size* bytes with undefined content, to be filled once."""
    if size < LARGE:
        return memoryview(bytearray(size))
    for pool in POOLS:
        if pool.length // 4 * 3 < size <= pool.length:
            return pool.borrow()[:size]
    return memoryview(_map(size))


def trim_pools() -> None:
    """Return the memory of unused pooled buffers to the system."""
    for pool in POOLS:
        pool.unused.clear()


def _map(size: int) -> mmap.mmap | bytearray:
    # The kernel adds the pages when they are filled, often without the interpreter's lock held.
    # The system gets them back when the last view ends; an allocator might keep them.
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as exc:  # for example vm.max_map_count is reached
        log_fallback("mmap", exc)
        return bytearray(size)


def _use_huge_pages(memory: mmap.mmap | bytearray) -> None:
    """Ask for huge pages; a kernel without transparent huge pages refuses."""
    if isinstance(memory, mmap.mmap):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except (OSError, AttributeError) as exc:
            log_fallback("madvise", exc)


POOLS: "Final[list[BufferPool]]" = []


class BufferPool:
    """Buffers of one length that are reused after their last view is gone.

    New memory would cost more than its content, because the kernel clears each page. Safe for
    concurrent use: it relies on the atomic `append` and `pop` of a list.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.unused: list[mmap.mmap | bytearray] = []
        # Locals, because globals may be gone when the interpreter ends.
        unused, pools, max_pooled = self.unused, POOLS, MAX_POOLED

        class Borrowed(ctypes.c_char * length):  # type: ignore[misc]
            memory: mmap.mmap | bytearray

            def __del__(self) -> None:
                pooled = sum(pool.length * len(pool.unused) for pool in pools)
                if pooled + length <= max_pooled:
                    unused.append(self.memory)

        self._borrowed = Borrowed

    def borrow(self) -> memoryview:
        """Return a buffer, which returns to the pool with its last view."""
        try:
            memory = self.unused.pop()
        except IndexError:
            memory = _map(self.length)
            if self.length >= HUGE:
                _use_huge_pages(memory)
        borrowed = self._borrowed.from_buffer(memory)
        borrowed.memory = memory
        return memoryview(borrowed).cast("B")


POOLS.extend(map(BufferPool, POOLED_SIZES))


def has_address(buffer: Buffer) -> bool:
    """Whether `address_of` works; Python hides the address of a read-only view."""
    return not (isinstance(buffer, memoryview) and buffer.readonly)


def addressable(buffer: Buffer) -> Buffer:
    """Return *buffer*, or a copy of it if it has no address."""
    return buffer if has_address(buffer) else bytes(buffer)


def address_of(buffer: Buffer) -> int:
    """Return the memory address of *buffer*, valid while it lives; 0 for an empty one."""
    if not has_address(buffer):
        raise ValueError("a read-only view has no address: see addressable")
    if isinstance(buffer, bytes):
        return ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if len(buffer) else 0

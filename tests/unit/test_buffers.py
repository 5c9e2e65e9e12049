"""`taskfs.support.buffers`: pooled buffers, and the limit of unused ones."""

import pytest

from taskfs.support import buffers
from taskfs.support.buffers import (
    LARGE,
    POOLED_SIZES,
    BufferPool,
    address_of,
    allocate,
    trim_pools,
)


@pytest.fixture(autouse=True)
def _own_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools that the buffers of earlier tests do not return to."""
    monkeypatch.setattr(buffers, "POOLS", [])
    buffers.POOLS.extend(map(BufferPool, POOLED_SIZES))


def pooled_bytes() -> int:
    return sum(pool.length * len(pool.unused) for pool in buffers.POOLS)


@pytest.mark.parametrize("length", POOLED_SIZES)
def test_a_buffer_is_reused_after_its_last_view_is_gone(length: int) -> None:
    """`BufferPool`: a buffer returns to the pool with its last view."""
    buffer = allocate(length)
    address = address_of(buffer)
    part = buffer[5:10]
    del buffer
    assert pooled_bytes() == 0
    del part
    assert pooled_bytes() == length
    assert address_of(allocate(max(LARGE, length - 1))) == address


def test_unused_buffers_are_bounded() -> None:
    """R-20: All pools together keep at most 16 MiB."""
    used = [allocate(length) for length in POOLED_SIZES for _ in range(40)]
    used.clear()
    assert 8 << 20 <= pooled_bytes() <= 16 << 20
    trim_pools()
    assert pooled_bytes() == 0


@pytest.mark.parametrize(
    "size", [0, 1, 1000, 300_000, POOLED_SIZES[1] // 2 + 5, POOLED_SIZES[-1] + 1]
)
def test_lengths_without_a_pool(size: int) -> None:
    """`allocate`: a writable buffer of *size* bytes."""
    buffer = allocate(size)
    assert len(buffer) == size
    assert not buffer.readonly
    buffer[:] = bytes(size)

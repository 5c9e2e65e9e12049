"""`taskfs.support.private_memory`: whether the process takes too much memory."""

import mmap

from taskfs.support.private_memory import PrivateMemory

TARGET = 64 << 20


def test_what_is_beyond_the_target_is_reported() -> None:
    """R-52: Filled private memory counts; memory that is mapped but not used does not."""
    now = 0.0
    base = PrivateMemory(0).take_excess()
    memory = PrivateMemory(base + TARGET, lambda: now)
    assert memory.take_excess() == 0
    with mmap.mmap(-1, 2 * TARGET, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as buffer:
        now += 0.1
        assert memory.take_excess() == 0
        for offset in range(0, len(buffer), mmap.PAGESIZE):
            buffer[offset] = 1
        assert memory.take_excess() == 0  # it was measured just now
        now += 0.1
        assert TARGET // 2 < memory.take_excess() < 2 * TARGET
        assert memory.is_tight
    now += 0.1
    assert memory.take_excess() == 0
    assert not memory.is_tight

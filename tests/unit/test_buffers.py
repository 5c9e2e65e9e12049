"""`taskfs.support.buffers`: room that is used again, and how much of it waits for that."""

import pytest

from taskfs.support import buffers
from taskfs.support.buffers import MAX_POOLED, POOLED_SIZES, address_of, allocate, trim_pools


@pytest.fixture(autouse=True)
def _nothing_to_spare() -> None:
    trim_pools()


def pooled_bytes() -> int:
    return sum(pool.length * len(pool.unused) for pool in buffers._POOLS)


@pytest.mark.parametrize("length", POOLED_SIZES)
def test_room_is_used_again_once_its_last_view_is_gone(length: int) -> None:
    """R-20: A buffer is used again once its last view is gone."""
    room = allocate(length)
    place = address_of(room)
    part = room[5:10]
    del room
    assert pooled_bytes() == 0
    del part
    assert pooled_bytes() == length
    assert address_of(allocate(length - 1)) == place


def test_what_waits_to_be_used_again_is_bounded() -> None:
    """R-20: Pooled buffers are bounded, whatever lengths were used at once."""
    crowd = [allocate(length) for length in POOLED_SIZES for _ in range(40)]
    crowd.clear()
    assert MAX_POOLED - POOLED_SIZES[-1] < pooled_bytes() <= MAX_POOLED
    trim_pools()
    assert pooled_bytes() == 0


@pytest.mark.parametrize(
    "size", [0, 1, 1000, 300_000, POOLED_SIZES[1] // 2 + 5, POOLED_SIZES[-1] + 1]
)
def test_other_lengths_are_right_too(size: int) -> None:
    """`allocate`: room for so many bytes, to be written."""
    room = allocate(size)
    assert len(room) == size
    assert not room.readonly
    room[:] = bytes(size)

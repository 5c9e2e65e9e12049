"""`taskfs.archive.member_part`: the same part of another member, and where it lies."""

import pytest

from taskfs.archive.member import Member
from taskfs.archive.member_part import PartRead
from tests.zips import DEFLATED, STORED

HEADER = 5000  # where each member begins


def member_of(size: int, packed: int | None = None) -> Member:
    """Return a member; without *packed*, a stored one."""
    method = STORED if packed is None else DEFLATED
    return Member("a", size, packed or size, 0, method, 0, HEADER, 0, b"artifacts/a")


@pytest.mark.parametrize(
    ("read", "same"),
    [
        ((0, 4096), (0, 4096)),
        ((0, 1_000_000), (0, 2_000_000)),
        ((970_000, 1_000_000), (1_970_000, 2_000_000)),
        ((970_000, 980_000), (970_000, 980_000)),
    ],
)
def test_the_same_part_of_a_longer_member(read: tuple[int, int], same: tuple[int, int]) -> None:
    """R-45: A part that reaches the end is counted from the end, any other from the beginning."""
    assert PartRead(member_of(1_000_000), *read).of(member_of(2_000_000))[1:] == same


@pytest.mark.parametrize("read", [(970_000, 980_000), (970_000, 1_000_000), (0, 4096)])
def test_the_same_part_of_a_short_member(read: tuple[int, int]) -> None:
    """R-45: A member that is shorter than the part is prefetched whole."""
    part = PartRead(member_of(1_000_000), *read).of(member_of(9))
    assert 0 <= part.start <= part.stop == 9


def test_where_a_part_lies() -> None:
    """R-45: A compressed member is decoded from its beginning; a stored one is read in place."""
    packed = member_of(10_000_000, 1_000_000)
    (head,) = PartRead(packed, 0, 4096).ranges()
    assert head.start == HEADER and len(head) < 10_000
    (tail,) = PartRead(packed, 9_990_000, 10_000_000).ranges()
    assert tail.start == HEADER and len(tail) >= 1_000_000
    header, data = PartRead(member_of(1_000_000), 990_000, 1_000_000).ranges()
    assert header.start == HEADER and len(header) < 200
    assert 995_000 <= data.start <= 995_100 and len(data) < 10_200

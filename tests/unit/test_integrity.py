"""`taskfs.archive.integrity`: the CRC-32 of a whole from pieces in any order."""

import itertools
import random
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskfs.archive.integrity import Coverage
from taskfs.support.checksum import crc32_combine

SEARCHING = settings(max_examples=200, deadline=None, derandomize=True)


@SEARCHING
@given(st.binary(max_size=300), st.binary(max_size=300))
def test_combine_is_the_crc_of_both_in_a_row(first: bytes, second: bytes) -> None:
    """`crc32_combine`: the CRC-32 of two pieces in a row, empty ones too."""
    whole = zlib.crc32(first + second)
    assert crc32_combine(zlib.crc32(first), zlib.crc32(second), len(second)) == whole


@pytest.mark.parametrize("length", [1, 255, 1 << 16, (1 << 20) + 1, 5_000_011])
def test_combine_of_long_pieces(length: int) -> None:
    """`crc32_combine`: lengths of any number of bits."""
    first, second = b"head", random.Random(length).randbytes(length)
    whole = zlib.crc32(first + second)
    assert crc32_combine(zlib.crc32(first), zlib.crc32(second), length) == whole


def test_combine_is_associative_for_lengths_that_no_memory_holds() -> None:
    """I-1, R-20: Lengths beyond 2**40 are counted."""
    a, b, c, length = 0x12345678, 0x9ABCDEF0, 0x0F1E2D3C, 3 << 40
    left = crc32_combine(crc32_combine(a, b, length), c, 77)
    assert left == crc32_combine(a, crc32_combine(b, c, 77), length + 77)


@SEARCHING
@given(st.integers(1, 2000), st.integers(0, 2**32), st.integers(1, 40))
def test_pieces_in_any_order_with_overlaps_give_the_crc_of_the_whole(
    size: int, seed: int, cuts: int
) -> None:
    """I-1: The check needs all bytes, in any order."""
    rng = random.Random(seed)
    body = rng.randbytes(size)
    edges = sorted({0, size, *(rng.randrange(size + 1) for _ in range(cuts))})
    pieces = list(itertools.pairwise(edges))
    pieces += [(start, rng.randrange(start, size) + 1) for start in rng.choices(range(size), k=5)]
    pieces += [(0, 0), (size, size)]
    rng.shuffle(pieces)
    coverage = Coverage(size)
    seen: set[int] = set()
    for start, stop in pieces:
        coverage.add(start, body[start:stop])
        seen.update(range(start, stop))
        expected = zlib.crc32(body) if len(seen) == size else None
        assert coverage.crc == expected


def test_bytes_that_were_added_before_are_ignored() -> None:
    """I-4: Of two copies of a byte the first one counts, because it was returned."""
    coverage = Coverage(4)
    coverage.add(0, b"ab")
    coverage.add(0, b"XYcd")
    assert coverage.crc == zlib.crc32(b"abcd")


def test_one_piece_that_covers_many_others() -> None:
    """I-4: A long read over scattered short ones adds only the gaps."""
    body = random.Random(3).randbytes(1000)
    coverage = Coverage(1000)
    for start in range(5, 1000, 10):
        coverage.add(start, body[start : start + 3])
    assert coverage.crc is None
    coverage.add(0, body)
    assert coverage.crc == zlib.crc32(body)


def test_scattered_pieces_are_bounded() -> None:
    """R-20, U-1: Scattered reads are not checked and cost no memory."""
    coverage = Coverage(1 << 30)
    tracemalloc.start()
    try:
        for start in range(0, 40_000, 2):
            coverage.add(start, b"x")
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert coverage.crc is None


def test_a_whole_pass_after_scattered_reads_is_checked() -> None:
    """I-1: A pass from start to end is checked whatever was read before."""
    body = random.Random(4).randbytes(64_000)
    coverage = Coverage(len(body))
    for start in range(0, len(body), 64):
        coverage.add(start, body[start : start + 10])
    for start in range(0, len(body), 4096):
        assert coverage.crc is None
        coverage.add(start, body[start : start + 4096])
    assert coverage.crc == zlib.crc32(body)


def test_reading_out_of_order_as_the_kernel_does_is_checked() -> None:
    """I-1: Reads that the kernel sends out of order are checked."""
    body = random.Random(5).randbytes(31 << 12)
    order = list(range(31))
    for first in range(0, 28, 4):
        order[first], order[first + 3] = order[first + 3], order[first]
    coverage = Coverage(len(body))
    for number in order:
        coverage.add(number << 12, body[number << 12 : (number + 1) << 12])
    assert coverage.crc == zlib.crc32(body)

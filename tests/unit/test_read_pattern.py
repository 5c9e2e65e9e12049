"""`taskfs.archive.read_pattern`: is a member read in order, and how far to decode ahead."""

import random

import pytest

from taskfs.archive.bounds import SPAN
from taskfs.archive.read_pattern import ReadPattern


def read(pattern: ReadPattern, *spans: int) -> ReadPattern:
    for span in spans:
        pattern.note(span * SPAN, (span + 1) * SPAN)
    return pattern


def test_two_reads_from_the_start_are_in_order() -> None:
    """R-4, R-5: Two reads in order from the start are sequential; a head is not."""
    pattern = ReadPattern()
    pattern.note(0, 16 << 10)
    assert not pattern.is_in_order
    pattern.note(16 << 10, SPAN + 1)
    assert pattern.is_in_order
    assert pattern.next_span == 2


def test_a_long_first_read_from_the_start_is_in_order() -> None:
    """R-12: A first read of a whole span from the start is sequential; elsewhere it is not."""
    assert read(ReadPattern(), 0).is_in_order
    assert not read(ReadPattern(), 40).is_in_order
    again = read(ReadPattern(), *range(100, 110), 0)
    assert again.is_in_order
    assert (again.has_jumped, again.next_span) == (True, 1)
    assert again.readahead_spans == read(ReadPattern(), 0).readahead_spans
    assert not read(again, 1).has_jumped


def test_in_a_sequence_a_first_read_of_any_length_is_in_order() -> None:
    """R-6: After files that were read to their ends, a first read of any length is sequential."""
    pattern = ReadPattern(in_sequence=True)
    pattern.note(0, 4096)
    assert pattern.is_in_order
    assert not read(ReadPattern(in_sequence=True), 40).is_in_order


def test_read_ahead_grows_with_the_bytes_read() -> None:
    """R-4, R-20: Decode-ahead grows with what was read, up to 8 MiB."""
    pattern, seen = ReadPattern(), []
    for span in range(100):
        seen.append(read(pattern, span).readahead_spans)
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[10] < seen[20] < seen[-1]
    assert seen[-1] * SPAN <= 8 << 20


def test_reads_out_of_order_by_the_kernel_count_as_sequential() -> None:
    """R-4: Reads that the kernel sends out of order count as sequential."""
    pattern, spans, rng = read(ReadPattern(), 0, 1), list(range(2, 200)), random.Random(3)
    for at in range(0, len(spans), 4):
        part = spans[at : at + 4]
        rng.shuffle(part)
        read(pattern, *part)
        assert pattern.is_in_order
    assert (pattern.next_span, pattern.next_offset) == (200, 200 * SPAN)


@pytest.mark.parametrize("to", [100, 400])
def test_a_jump_ends_the_sequence(to: int) -> None:
    """R-5: A jump ends sequential reading."""
    pattern = read(ReadPattern(), *range(200, 210))
    assert pattern.is_in_order
    read(pattern, to)
    assert pattern.has_jumped
    assert not pattern.is_in_order
    assert pattern.next_offset == (to + 1) * SPAN
    assert read(pattern, to + 1, to + 2).is_in_order
    assert pattern.readahead_spans == read(ReadPattern(), 0, 1, 2).readahead_spans


def test_a_push_of_many_spans_counts_as_one_read() -> None:
    """R-9: Bytes that were pushed count as read."""
    pattern = read(ReadPattern(), 0, 1)
    pattern.note(2 * SPAN, 18 * SPAN)
    assert (pattern.is_in_order, pattern.next_span, pattern.next_offset) == (True, 18, 18 * SPAN)
    assert read(pattern, 18).is_in_order

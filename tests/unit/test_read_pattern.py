"""`taskfs.archive.read_pattern`: is a member read in order, and how far to decode ahead."""

import random

import pytest

from taskfs.archive.prefetch import DISORDER_SPANS, MAX_AHEAD_SPANS, MIN_AHEAD_SPANS, SPAN
from taskfs.archive.read_pattern import ReadPattern


def read(pace: ReadPattern, *spans: int) -> ReadPattern:
    for span in spans:
        pace.note(span * SPAN, (span + 1) * SPAN)
    return pace


def test_two_reads_from_the_start_are_in_order() -> None:
    """R-4, R-5: Two reads in order from the start are sequential; a head is not."""
    pace = ReadPattern()
    pace.note(0, 16 << 10)
    assert not pace.is_in_order
    pace.note(16 << 10, SPAN + 1)
    assert pace.is_in_order
    assert pace.next_span == 2
    assert pace.readahead_spans == MIN_AHEAD_SPANS


def test_a_long_first_read_from_the_start_is_in_order() -> None:
    """R-12: A first read of a whole span from the start is sequential; elsewhere it is not."""
    assert read(ReadPattern(), 0).is_in_order
    assert not read(ReadPattern(), 40).is_in_order
    again = read(ReadPattern(), *range(100, 110), 0)
    assert again.is_in_order
    assert (again.has_jumped, again.next_span, again.readahead_spans) == (True, 1, MIN_AHEAD_SPANS)
    assert not read(again, 1).has_jumped


def test_in_turn_a_first_read_of_any_length_is_in_order() -> None:
    """R-6: After files that were read to their ends, a first read of any length is sequential."""
    pace = ReadPattern(in_turn=True)
    pace.note(0, 4096)
    assert pace.is_in_order
    assert not read(ReadPattern(in_turn=True), 40).is_in_order


def test_what_is_decoded_ahead_grows_with_what_was_read() -> None:
    """R-4: Decode-ahead grows with what was read, and is bounded."""
    pace, seen = ReadPattern(), []
    for span in range(100):
        seen.append(read(pace, span).readahead_spans)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (MIN_AHEAD_SPANS, MAX_AHEAD_SPANS)
    assert all(ahead <= max(MIN_AHEAD_SPANS, 2 * (n + 1)) for n, ahead in enumerate(seen))


def test_the_kernels_disorder_is_order() -> None:
    """semantics, Integrity: the kernel sends the reads of one `cat` out of order."""
    pace, spans, rng = read(ReadPattern(), 0, 1), list(range(2, 200)), random.Random(3)
    for at in range(0, len(spans), DISORDER_SPANS // 2):
        part = spans[at : at + DISORDER_SPANS // 2]
        rng.shuffle(part)
        read(pace, *part)
        assert pace.is_in_order
    assert (pace.next_span, pace.next_offset) == (200, 200 * SPAN)


@pytest.mark.parametrize("to", [100, 400])
def test_a_jump_is_the_end_of_order(to: int) -> None:
    """R-5: A jump ends sequential reading."""
    pace = read(ReadPattern(), *range(200, 210))
    assert pace.is_in_order
    read(pace, to)
    assert pace.has_jumped
    assert not pace.is_in_order
    assert pace.next_offset == (to + 1) * SPAN
    assert read(pace, to + 1, to + 2).is_in_order
    assert pace.readahead_spans == MIN_AHEAD_SPANS


def test_one_piece_of_many_spans_is_one_read_on() -> None:
    """R-9: Bytes that were pushed count as read."""
    pace = read(ReadPattern(), 0, 1)
    pace.note(2 * SPAN, 18 * SPAN)
    assert (pace.is_in_order, pace.next_span, pace.next_offset) == (True, 18, 18 * SPAN)
    assert read(pace, 18).is_in_order

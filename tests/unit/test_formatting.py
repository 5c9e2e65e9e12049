"""`taskfs.support.formatting`: sizes, times and escaped names."""

import pytest

from taskfs.support.formatting import escape_controls, format_count, format_elapsed, format_size


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0, "00:00:00"), (59.9, "00:00:59"), (192, "00:03:12"), (362_439, "100:40:39")],
)
def test_elapsed_times(seconds: float | None, shown: str) -> None:
    """T-4: A time reads `HH:MM:SS`; more than 99 hours have more digits."""
    assert format_elapsed(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 KB"), (3120, "3.12 KB"), (262_000, "262.00 KB")],
)
def test_sizes(count: int, shown: str) -> None:
    """T-5: Sizes in the table of an archive count 1 KB as 1000 bytes."""
    assert format_size(count) == shown


def test_counts() -> None:
    assert [format_count(count, "file") for count in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_control_characters_are_escaped() -> None:
    """A name from an archive can neither begin a line nor send commands to a terminal."""
    assert escape_controls("a\nb\x1b[2J\x7f\x85é \u2028") == "a\\x0ab\\x1b[2J\\x7f\\x85é \u2028"

"""`taskfs.cache.persistent_blocks`: only blocks that are not on disk are fetched."""

import pytest

from taskfs.cache.persistent_blocks import fetch_missing


@pytest.mark.parametrize(
    ("stored", "fetched"),
    [
        ((), [(0, 6)]),
        ((0, 1, 5), [(2, 5)]),
        ((2, 3), [(0, 2), (4, 6)]),
        ((1, 4), [(0, 1), (2, 4), (5, 6)]),
        ((0, 1, 2, 3, 4, 5), []),
    ],
)
def test_only_missing_blocks_are_fetched(
    stored: tuple[int, ...], fetched: list[tuple[int, int]]
) -> None:
    """`fetch_missing`: fetch those that are not in *stored*."""
    fetches: list[tuple[int, int]] = []

    def fetch(first: int, stop: int) -> bytes:
        fetches.append((first, stop))
        return b"".join(b"%d" % n for n in range(first, stop))

    runs = [(n, n + 1, b"%d" % n) for n in stored]
    found = fetch_missing(runs, fetch, 0, 6)
    assert found == b"012345"
    assert fetches == fetched

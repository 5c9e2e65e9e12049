"""`taskfs.archive.listing`: the table of an archive's files, of which only parts are rendered."""

import random

import pytest

from taskfs.archive import listing
from taskfs.archive.listing import Listing, line_length, render_line
from tests.zips import build, file, index_of


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_any_part_is_that_of_the_whole(count: int) -> None:
    """T-5, R-28: The length and every part of the table are those of all lines together."""
    names = [f"d/{'é' * (n % 5)}{n}" + "\n\x1b" * (n % 3) for n in range(count)]
    index = index_of(build([file(name, b"x" * (n % 2000)) for n, name in enumerate(names)]))
    table = Listing(123456, index)
    whole = b"Archive size: 123.46 KB\nContents:\n  Size         Compressed   Name\n"
    whole += b"".join(map(render_line, index.members))
    assert len(table) == len(whole)
    assert table[:] == whole
    assert all(
        line_length(m.path, m.size, m.compressed_size) == len(render_line(m)) for m in index.members
    )
    rng = random.Random(count)
    for _ in range(200):
        start = rng.randrange(len(whole) + 10)
        stop = start + rng.choice([0, 1, 100, 4096, 1 << 20])
        assert table[start:stop] == whole[start:stop]


def test_a_size_costs_no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-28: The size costs no line, and a read of some bytes a few hundred lines."""
    index = index_of(build([file(f"{n:05}", b"") for n in range(5000)]))
    rendered = 0
    original = render_line

    def count(member: object) -> bytes:
        nonlocal rendered
        rendered += 1
        return original(member)  # type: ignore[arg-type]

    monkeypatch.setattr(listing, "render_line", count)
    table = Listing(1, index)
    assert len(table) > 5000 * 30 and not rendered
    assert table[100_000:100_010] and rendered <= 300

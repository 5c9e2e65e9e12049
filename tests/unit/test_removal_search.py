"""`taskfs.tasks.removal_search`: which tasks were removed, by a few pages of a long listing."""

import random
from collections.abc import Iterator, Sequence

import pytest

from taskfs.model import TaskPage
from taskfs.tasks.removal_search import find_removed
from tests.unit.fakes import task_of

PAGE = 500
KNOWN = [f"task{number}" for number in range(100_000)]


class Listing:
    """A listing of the API; `pages` counts those that were read."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids
        self.pages = 0

    def fetch(self, numbers: Sequence[int]) -> Iterator[tuple[int, TaskPage]]:
        for number in numbers:
            self.pages += 1
            part = self.ids[(number - 1) * PAGE : number * PAGE]
            yield number, TaskPage([task_of(name) for name in part], len(self.ids))


def search(listing: Listing) -> list[str] | None:
    return find_removed(listing.fetch, KNOWN, len(listing.ids), PAGE)


@pytest.mark.parametrize("removed", [[0], [499], [500], [50_000], [99_999], [0, 499, 500, 99_999]])
def test_removed_tasks_are_found(removed: list[int]) -> None:
    """F-18: The search names the removed tasks, wherever they were, and reads few pages."""
    gone = {KNOWN[number] for number in removed}
    listing = Listing([name for name in KNOWN if name not in gone])
    assert sorted(search(listing) or ()) == sorted(gone)
    assert listing.pages <= 16 * len(removed)


def test_every_choice_of_removed_tasks() -> None:
    """F-18: Some removed at random, or a whole range of them."""
    chosen = random.Random(2)
    for count in (2, 3, 5):
        gone = set(chosen.sample(KNOWN, count))
        assert set(search(Listing([name for name in KNOWN if name not in gone])) or ()) == gone
    gone = set(KNOWN[40_100:42_300])
    listing = Listing([name for name in KNOWN if name not in gone])
    assert set(search(listing) or ()) == gone
    assert listing.pages <= 24


def test_too_many_removed_tasks_end_the_search() -> None:
    """F-18: A search reads a bounded number of pages."""
    gone = set(KNOWN[::1000])
    listing = Listing([name for name in KNOWN if name not in gone])
    assert search(listing) is None
    assert listing.pages <= 50


def test_other_differences_end_the_search() -> None:
    """F-18: A listing that differs in other ways than by removed tasks is read whole."""
    gone = [name for number, name in enumerate(KNOWN) if number not in (10, 70_000)]
    assert search(Listing([*reversed(gone)])) is None
    moved = [*gone[:20_000], gone[80_000], *gone[20_000:80_000], *gone[80_001:]]
    assert search(Listing(moved)) is None


def test_a_listing_that_shifts_meanwhile_ends_the_search() -> None:
    """F-18: A task that comes or goes during the search moves the pages."""
    listing = Listing([name for number, name in enumerate(KNOWN) if number != 70_000])
    fetch = listing.fetch

    def shifting(numbers: Sequence[int]) -> Iterator[tuple[int, TaskPage]]:
        for found in fetch(numbers):
            listing.ids = ["new", *listing.ids]
            yield found

    assert find_removed(shifting, KNOWN, len(listing.ids), PAGE) is None


@pytest.mark.parametrize("after", range(1, 12))
@pytest.mark.parametrize("also", [60_000, 90_000])
def test_equal_sums_hide_no_shift(after: int, also: int) -> None:
    """F-18, F-15: A task that comes and another one that goes during the search leave the sum as it
    was; no task is taken for removed that is there."""
    listing = Listing([name for number, name in enumerate(KNOWN) if number != 30_000])
    fetch = listing.fetch

    def shifting(numbers: Sequence[int]) -> Iterator[tuple[int, TaskPage]]:
        for found in fetch(numbers):
            yield found
            if listing.pages == after:
                listing.ids = ["new", *(name for name in listing.ids if name != KNOWN[also])]

    assert set(find_removed(shifting, KNOWN, len(listing.ids), PAGE) or ()).isdisjoint(listing.ids)

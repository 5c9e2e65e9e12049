"""`find_removed`: finds the tasks that were removed from a long listing, by a few of its pages.

The tasks that follow a removed one have moved up by one position. So a page shows how many of the
known tasks before it are gone. A search reads only the pages around each removed task, and at the
end the first page again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from taskfs.model import PAGES_AT_ONCE, TaskPage

# Pages that a search reads at most; all pages together are cheaper than a longer one.
MAX_PAGES: Final = 48

FetchPages = Callable[[Sequence[int]], Iterable[tuple[int, TaskPage]]]


class _Gap(NamedTuple):
    """The pages [start, stop), which were not read yet.

    *removed_before* counts the known tasks before page *start* that were removed, and
    *removed_until* those before page *stop*.
    """

    start: int
    stop: int
    removed_before: int
    removed_until: int


def find_removed(
    fetch_pages: FetchPages, ids: Sequence[str], total_size: int, page_tasks: int
) -> list[str] | None:
    """Return the removed ones of *ids*, which are sorted as the listing is; None if the listing
    differs in other ways.

    Args:
        fetch_pages: returns pages of *page_tasks* tasks by number, from 1.
        ids: the known tasks.
        total_size: the number of tasks that the API has.
        page_tasks: the tasks of each page but the last.
    """
    gaps = [_Gap(1, -(-total_size // page_tasks) + 1, 0, len(ids) - total_size)]
    removed: list[str] = []
    read = 0
    while gaps:
        for gap in gaps:
            if gap.start == gap.stop:
                position = min((gap.start - 1) * page_tasks, total_size)
                removed += ids[position + gap.removed_before : position + gap.removed_until]
        gaps = [gap for gap in gaps if gap.start < gap.stop]
        numbers = sorted(set(_choose(gaps)))
        read += len(numbers)
        if read > MAX_PAGES:
            return None
        for number, page in fetch_pages(numbers):
            position = (number - 1) * page_tasks
            around = _compare(page, ids, position, len(ids) - total_size)
            is_full = len(page.tasks) == min(page_tasks, total_size - position)
            if around is None or not is_full or page.total_size != total_size:
                return None
            before, gone = around
            removed += gone
            gaps = list(_split(gaps, number, before, before + len(gone)))
            if any(gap.removed_before > gap.removed_until for gap in gaps):
                return None
    # If a task was added and another one removed meanwhile, the sum is unchanged, but the first
    # page shows the new task.
    for _, page in fetch_pages([1]):
        if page.total_size != total_size or _compare(page, ids, 0, len(ids) - total_size) is None:
            return None
    return removed if len(removed) == len(ids) - total_size else None


def _choose(gaps: Sequence[_Gap]) -> Iterator[int]:
    """Yield numbers of pages that divide the gaps evenly."""
    each = max(1, PAGES_AT_ONCE // max(1, len(gaps)))
    for gap in gaps[:PAGES_AT_ONCE]:
        for part in range(1, each + 1):
            yield gap.start + (gap.stop - gap.start) * part // (each + 1)


def _compare(
    page: TaskPage, ids: Sequence[str], position: int, surplus: int
) -> tuple[int, list[str]] | None:
    """Return how many known tasks before the page were removed, and the removed ones within it.

    Return None if the page is not a part of *ids*. *surplus* is the number of removed tasks.
    """
    expected = ids[position : position + surplus + len(page.tasks)]
    listed = [task.id for task in page.tasks]
    if not listed or listed[0] not in expected or listed[-1] not in expected:
        return None
    first, last = expected.index(listed[0]), expected.index(listed[-1])
    among = set(listed)
    gone = [task_id for task_id in expected[first : last + 1] if task_id not in among]
    if [task_id for task_id in expected[first : last + 1] if task_id in among] != listed:
        return None
    return first, gone


def _split(gaps: Iterable[_Gap], number: int, before: int, until: int) -> Iterator[_Gap]:
    """Yield the gaps without the page *number*, and without those that contain no removed task.

    *before* and *until* known tasks were removed before the page and before the next one.
    """
    for gap in gaps:
        parts = [gap]
        if gap.start <= number < gap.stop:
            parts = [
                _Gap(gap.start, number, gap.removed_before, before),
                _Gap(number + 1, gap.stop, until, gap.removed_until),
            ]
        yield from (part for part in parts if part.removed_before != part.removed_until)

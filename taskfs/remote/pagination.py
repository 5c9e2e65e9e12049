"""Reads a whole listing page by page, although the pages may shift between two requests."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, NamedTuple

import msgspec

from taskfs.errors import BadResponse
from taskfs.model import MAX_PAGES, MAX_PASSES, PAGE_TASKS, Task

# Pages read before the first of them is examined; bounds the memory of an endless listing.
BATCH_PAGES: Final = 64


class Page(msgspec.Struct):
    """One page as the API sends it."""

    total_size: int
    tasks: list[msgspec.Raw]

    def __post_init__(self) -> None:
        if self.total_size < len(self.tasks):
            raise ValueError("total_size is less than the length of one page")


FetchPage = Callable[[int, int], Page]
ParseTasks = Callable[[list[msgspec.Raw]], list[Task]]


def read_listing(
    fetch_page: FetchPage, parse: ParseTasks, pool: Executor, last: int | None
) -> list[Task]:
    """Return at most *last* tasks, newest first, each once; fetch the later pages in parallel.

    A task that moves to another page between two requests would be missing. So a listing whose
    length changes meanwhile is read again. If it changes in every pass, the result is the union of
    all passes.

    Args:
        fetch_page: returns a page by its number, from 1, and its length.
        parse: returns the tasks of the usable records.

    Raises:
        BadResponse: the listing does not end, stays shorter than its `total_size`, or has no usable
            record.
    """
    seen: dict[str, Task] = {}
    for _ in range(MAX_PASSES):
        current = _read_pages(fetch_page, parse, pool, last)
        if current.unusable and not current.tasks:
            raise BadResponse(f"GET /tasks: none of {current.unusable} records can be used")
        if current.is_steady and len(current.tasks) + current.unusable >= current.wanted:
            return list(current.tasks.values())[:last]
        seen |= current.tasks
    if len(seen) + current.unusable < current.wanted:
        # The missing tasks would look deleted.
        raise BadResponse(
            f"GET /tasks: only {len(seen)} of the {current.wanted} announced tasks arrived"
        )
    return sorted(seen.values(), key=lambda task: task.create_ns or 0, reverse=True)[:last]


class _Pass(NamedTuple):
    """One pass over the pages: tasks by id, and the number of unusable records.

    *wanted* is the smallest `total_size` of all pages, at most *last*; *is_steady* is whether it is
    the same on all pages.
    """

    tasks: dict[str, Task]
    unusable: int
    wanted: int
    is_steady: bool


def _read_pages(
    fetch_page: FetchPage, parse: ParseTasks, pool: Executor, last: int | None
) -> _Pass:
    """Read all pages once; stop after pages without a new task."""
    tasks: dict[str, Task] = {}
    unusable = 0

    def add(page: Page) -> int:
        """Add a page; return the number of its new records, unusable ones included."""
        nonlocal unusable
        before, parsed = len(tasks), parse(page.tasks)
        tasks.update((task.id, task) for task in parsed)
        unusable += len(page.tasks) - len(parsed)
        return len(tasks) - before + len(page.tasks) - len(parsed)

    per_page = PAGE_TASKS if last is None else max(1, min(PAGE_TASKS, last))
    first = fetch_page(1, per_page)
    wanted = least = first.total_size if last is None else min(last, first.total_size)
    if 0 < len(first.tasks) < min(per_page, wanted):
        per_page = len(first.tasks)  # the server's own maximum
    count = -(-wanted // per_page)
    add(first)
    steady = True
    for start in range(2, count + 1, BATCH_PAGES):
        if start > MAX_PAGES:
            raise BadResponse(f"GET /tasks: {first.total_size} tasks are too many pages")
        numbers = range(start, min(start + BATCH_PAGES, count + 1))
        pages = list(pool.map(lambda number: fetch_page(number, per_page), numbers))
        news = sum(map(add, pages))
        steady = steady and all(page.total_size == first.total_size for page in pages)
        least = min(least, *(page.total_size for page in pages))
        if not news:
            break
    return _Pass(tasks, unusable, least, steady)

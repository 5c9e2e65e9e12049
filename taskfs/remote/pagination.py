"""A listing from its pages, which shift while they are read and need not tell the truth."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, NamedTuple

import msgspec

from taskfs.errors import BadAnswer
from taskfs.model import Task

PAGE: Final = 500  # the most that the API gives at once
# So often is a listing read whose pages shift meanwhile.
TRIES: Final = 3
PAGES_AT_ONCE: Final = 64
MAX_PAGES: Final = 2000  # what needs more is an answer without end


class Page(msgspec.Struct):
    """One page as the API gives it (remote-api.md, Tasks)."""

    total_size: int
    tasks: list[msgspec.Raw]

    def __post_init__(self) -> None:
        if self.total_size < len(self.tasks):
            raise ValueError("total_size is less than one page has")


Ask = Callable[[int, int], Page]
Parse = Callable[[list[msgspec.Raw]], list[Task]]


def read_listing(ask: Ask, parse: Parse, pool: Executor, last: int | None) -> list[Task]:
    """Return the tasks, newest first, each once: at most *last*; the later pages in parallel.

    *ask* gives the page of a number, from 1, and a length; *parse* the tasks of its records that
    can be used. A task that moves over a page's edge between two requests would be missing: a
    listing whose length changes meanwhile is read again, and one that never holds still is what
    all passes saw together.

    Raises:
        BadAnswer: a listing without end, one that stays shorter than its own `total_size`, or one
            without a single usable record.
    """
    seen: dict[str, Task] = {}
    for _ in range(TRIES):
        one = _read_pages(ask, parse, pool, last)
        if one.unusable and not one.tasks:
            raise BadAnswer(f"GET /tasks: none of {one.unusable} records can be used")
        if one.is_steady and len(one.tasks) + one.unusable >= one.wanted:
            return list(one.tasks.values())[:last]
        seen |= one.tasks
    if len(seen) + one.unusable < one.wanted:
        # Shown as it is, the tasks that are missing would look deleted.
        raise BadAnswer(f"GET /tasks: {len(seen)} tasks of the {one.wanted} that are announced")
    return sorted(seen.values(), key=lambda task: task.create_ns or 0, reverse=True)[:last]


class _Pass(NamedTuple):
    """One pass over the pages: the tasks by id, how many records could not be used, and whether
    all pages told of the same length. *wanted* is the least number of records that are there."""

    tasks: dict[str, Task]
    unusable: int
    wanted: int
    is_steady: bool


def _read_pages(ask: Ask, parse: Parse, pool: Executor, last: int | None) -> _Pass:
    """Read all pages once; pages in which there is nothing new end the pass."""
    tasks: dict[str, Task] = {}
    unusable = 0

    def add(page: Page) -> int:
        """Return how many of the page's records were not there yet, unusable ones included."""
        nonlocal unusable
        before, parsed = len(tasks), parse(page.tasks)
        tasks.update((task.id, task) for task in parsed)
        unusable += len(page.tasks) - len(parsed)
        return len(tasks) - before + len(page.tasks) - len(parsed)

    per_page = PAGE if last is None else max(1, min(PAGE, last))
    first = ask(1, per_page)
    wanted = least = first.total_size if last is None else min(last, first.total_size)
    if 0 < len(first.tasks) < min(per_page, wanted):
        per_page = len(first.tasks)  # all that this server gives at once
    count = -(-wanted // per_page)
    add(first)
    steady = True
    for start in range(2, count + 1, PAGES_AT_ONCE):
        if start > MAX_PAGES:
            raise BadAnswer(f"GET /tasks: {first.total_size} tasks, and no end of pages")
        numbers = range(start, min(start + PAGES_AT_ONCE, count + 1))
        pages = list(pool.map(lambda number: ask(number, per_page), numbers))
        news = sum(map(add, pages))
        steady = steady and all(page.total_size == first.total_size for page in pages)
        least = min(least, *(page.total_size for page in pages))
        if not news:
            break
    return _Pass(tasks, unusable, least, steady)

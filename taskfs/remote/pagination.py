"""A listing from its pages, which shift while they are read and need not tell the truth."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

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
        BadAnswer: a listing without end.
    """
    seen: dict[str, Task] = {}
    for _ in range(TRIES):
        tasks, whole = _read_pages(ask, parse, pool, last)
        if whole:
            return list(tasks.values())[:last]
        seen |= tasks
    return sorted(seen.values(), key=lambda task: task.create_ns or 0, reverse=True)[:last]


def _read_pages(
    ask: Ask, parse: Parse, pool: Executor, last: int | None
) -> tuple[dict[str, Task], bool]:
    """Return the tasks of one pass by id, and whether the pass saw all of them.

    Pages in which there is nothing new end the pass, whatever `total_size` says.
    """
    tasks: dict[str, Task] = {}

    def add(page: Page) -> int:
        """Return how many of the page's records were not there yet, unusable ones included."""
        before, parsed = len(tasks), parse(page.tasks)
        tasks.update((task.id, task) for task in parsed)
        return len(tasks) - before + len(page.tasks) - len(parsed)

    per_page = PAGE if last is None else max(1, min(PAGE, last))
    first = ask(1, per_page)
    wanted = first.total_size if last is None else min(last, first.total_size)
    if 0 < len(first.tasks) < min(per_page, wanted):
        per_page = len(first.tasks)  # all that this server gives at once
    count = -(-wanted // per_page)
    told = add(first)
    steady = True
    for start in range(2, count + 1, PAGES_AT_ONCE):
        if start > MAX_PAGES:
            raise BadAnswer(f"GET /tasks: {first.total_size} tasks, and no end of pages")
        numbers = range(start, min(start + PAGES_AT_ONCE, count + 1))
        pages = list(pool.map(lambda number: ask(number, per_page), numbers))
        news = sum(map(add, pages))
        told += news
        steady = steady and all(page.total_size == first.total_size for page in pages)
        if not news:
            break
    return tasks, count <= 1 or (steady and told >= wanted)

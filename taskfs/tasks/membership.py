"""Removal of saved tasks that a response does not show, or a request for each."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from taskfs.errors import NotFound
from taskfs.model import TaskAPI
from taskfs.tasks.known_tasks import KnownTasks
from taskfs.tasks.selection import Scope

# Tasks that are requested one by one; if there are more, pages of a listing are cheaper.
MAX_SINGLE_REQUESTS: Final = 16


def remove_unlisted(
    api: TaskAPI,
    known: KnownTasks,
    scope: Scope,
    listed: Collection[str],
    start_seq: int,
    clock: Callable[[], float],
) -> None:
    """Remove the tasks of *scope* that a whole listing did not show.

    Tasks with a number above *start_seq* were added after the listing began.
    """
    where, values = scope.selection._replace(max_seq=start_seq).where()
    gone = known.database.select_ids(where, values, lambda task_id: task_id not in listed)
    remove_missing(api, known, scope, gone, clock)


def remove_missing(
    api: TaskAPI, known: KnownTasks, scope: Scope, gone: Sequence[str], clock: Callable[[], float]
) -> None:
    """Remove the tasks that have left the listing of *scope*.

    A task that has left the listing of a project or status may still exist, so it is requested.
    """
    if scope != Scope() and len(gone) <= MAX_SINGLE_REQUESTS:
        request_each(api, known, gone, clock)
    else:
        known.remove(gone)


def request_each(
    api: TaskAPI, known: KnownTasks, ids: Iterable[str], clock: Callable[[], float]
) -> None:
    """Request tasks one by one, and remove those that no longer exist."""
    for task_id in ids:
        began_s = clock()
        try:
            known.apply([api.get_task(task_id)], began_s)
        except NotFound:
            known.remove([task_id])

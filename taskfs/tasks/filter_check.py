"""Checks that the project and the statuses of a task filter exist."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

from taskfs.errors import BadResponse, ConfigError, TaskFSError
from taskfs.model import KNOWN_STATUSES, Task
from taskfs.options import near_matches

log = logging.getLogger(__name__)

MAX_NAMES: Final = 20  # project names in one error: it is one line


class Lister(Protocol):
    """The calls of the task API that the check needs."""

    def list_tasks(
        self, *, project: str | None = None, status: str | None = None, last: int | None = None
    ) -> list[Task]:
        """Return tasks, newest first, at most *last*."""
        ...

    def list_projects(self) -> list[dict[str, Any]]:
        """Return the projects, each with its `name`."""
        ...


def check_filter(
    api: Lister, project: str | None, statuses: Sequence[str], tasks: Iterable[Task]
) -> None:
    """Check that *project* and *statuses* exist; *tasks* is the listing that they select.

    No request is sent if the listing shows them, or if the service documents the statuses. The
    service adds statuses over time, so an undocumented one exists if any task of the account has
    it.

    Raises:
        ConfigError: one does not exist; the message names those that do.
        AccessDenied, Unavailable: the API does not respond.
    """
    listed = list(tasks)
    seen = {task.status for task in listed}
    for status in unknown_statuses(statuses):
        if status not in seen and not _has_status(api, status):
            raise ConfigError(status_error(status, seen))
    if project is not None and not listed:
        _check_project(api, project)


def unknown_statuses(statuses: Sequence[str]) -> list[str]:
    """Return the statuses that the service does not document."""
    return [status for status in statuses if status not in KNOWN_STATUSES]


def status_error(status: str, seen: Iterable[str] = ()) -> str:
    """Return the message for a status that no task has; *seen* are statuses that tasks have."""
    known = [*KNOWN_STATUSES, *sorted(set(seen) - set(KNOWN_STATUSES))]
    guess = near_matches(status, known)
    return f"--status {status!r}: no task has this status{guess} (known: {', '.join(known)})"


@contextlib.contextmanager
def statuses_explained(statuses: Sequence[str]) -> Iterator[None]:
    """Explain a refused listing in the body by an undocumented status, if there is one.

    Raises:
        ConfigError: in place of BadResponse.
    """
    try:
        yield
    except BadResponse as exc:
        unknown = unknown_statuses(statuses)
        if not unknown:
            raise
        log.info("the listing was refused: %s", exc)
        raise ConfigError(status_error(unknown[0])) from exc


def _has_status(api: Lister, status: str) -> bool:
    try:
        return bool(api.list_tasks(status=status, last=1))
    except BadResponse:  # 422: the service has no such status
        return False


def _check_project(api: Lister, project: str) -> None:
    try:
        names = [str(record.get("name", "")) for record in api.list_projects()]
    except TaskFSError as exc:  # the listing itself succeeded
        log.info("the project %r was not checked: %s", project, exc)
        return
    # The list of projects may be incomplete, so a task of the project counts too.
    if project in names or api.list_tasks(project=project, last=1):
        return
    if not names:
        raise ConfigError(f"--project {project!r}: the account has no project yet")
    shown = ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
    guess = near_matches(project, names)
    raise ConfigError(f"--project {project!r}: there is no such project{guess} (known: {shown})")

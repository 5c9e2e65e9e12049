"""The values that all packages share, such as `Task`, and the protocols of the remote side.

Times are nanoseconds since the epoch (UTC), sizes are bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from taskfs.support.buffers import Buffer

# The statuses that the service documents; other statuses are shown unchanged.
KNOWN_STATUSES: Final = (
    "pending-input",
    "submitted",
    "started",
    "computation-started",
    "computation-ended",
    "pending-kill",
    "spot-instance-preempted",
    "success",
    "failed",
    "killed",
    "zombie",
    "executer-failed",
    "executer-terminated",
    "executer-terminated-by-user",
    "executer-terminated-ttl-exceeded",
    "executer-terminated-credits-exhausted",
    "ttl-exceeded",
)
# The statuses in which a machine serves the files of its task.
LIVE_STATUSES: Final = frozenset({"computation-started", "computation-ended", "pending-kill"})


PAGE_TASKS: Final = 500  # tasks per page of a listing, the API's maximum
# Pages of one listing, a million tasks: a longer listing is taken for an error of the server.
MAX_PAGES: Final = 2000
# Pages of a listing in flight, few because the API serves all programs of the account.
PAGES_AT_ONCE: Final = 4
# Passes over a listing whose pages shift, because each pass may shift again.
MAX_PASSES: Final = 3

NO_RECORD: Final = b"{}"


class Task(NamedTuple):
    """One task as a listing contains it.

    `record` is the JSON record as the API sent it, without whitespace.
    """

    id: str
    status: str
    is_terminated: bool
    simulator: str | None = None
    project: str | None = None
    machine_type: str = ""
    create_ns: int | None = None
    input_submit_ns: int | None = None
    start_ns: int | None = None
    computation_start_ns: int | None = None
    computation_end_ns: int | None = None
    end_ns: int | None = None
    computation_seconds: float | None = None
    output_files: int | None = None
    output_zipped_bytes: int | None = None
    error_detail: str = ""
    executer_error: str = ""
    output_path: str | None = None
    input_path: str | None = None
    region: str | None = None
    metadata: Mapping[str, str] | None = None
    record: bytes = NO_RECORD

    @property
    def last_change_ns(self) -> int:
        """The time of the last known change: the task's end, start or creation, or 0."""
        return self.end_ns or self.start_ns or self.create_ns or 0

    def computation_elapsed(self, now_ns: int) -> float | None:
        """Return the computation time in seconds at *now_ns*, None before the computation.

        This is the service's metric, or the time since the start while the computation runs.
        """
        if self.computation_seconds is not None:
            return self.computation_seconds
        if self.computation_start_ns is None:
            return None
        stop_ns = self.computation_end_ns or self.end_ns
        if stop_ns is None:
            if self.is_terminated:
                return None
            stop_ns = now_ns
        return max(0.0, (stop_ns - self.computation_start_ns) / 1e9)


class TaskPage(NamedTuple):
    """One page of a listing: tasks, newest first.

    `total_size` is the number of tasks on all pages, `unusable` the number of records of this page
    that are left out.
    """

    tasks: list[Task]
    total_size: int
    unusable: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether a first page is the whole listing."""
        return len(self.tasks) + self.unusable >= self.total_size


class TaskStatus(NamedTuple):
    """The response to a status or kill request; *tasks_ahead* are before the task in the queue."""

    id: str
    status: str
    is_terminated: bool
    tasks_ahead: int | None = None


class ObjectVersion(NamedTuple):
    """One version of a remote object: its size, and the store's ETag or modification date."""

    size: int
    etag: str


class Fetched(NamedTuple):
    """The response to a range request: the bytes [start, start + len(body)) of *version*."""

    start: int
    body: bytes
    version: ObjectVersion


class RemoteObject(Protocol):
    """One object in the store, fetched by byte ranges; each call sends at least one request."""

    def fetch_tail(self, length: int) -> Fetched:
        """Return the last *length* bytes of the object, or all of a smaller one.

        This is one GET with a suffix range (RFC 9110, 14.1.2), whose response also has the size and
        the version.

        Raises:
            NotFound: there is no such object (ENOENT).
            Unsupported: the store ignores ranges and the object is large (EOPNOTSUPP).
            Unavailable, BadResponse, AccessDenied: no usable response before the deadline.
        """
        ...

    def fetch_range(self, start: int, stop: int, version: ObjectVersion) -> Buffer:
        """Return the bytes [start, stop) of *version*, exactly `stop - start` of them.

        This is one GET, with If-Match if the store has a strong ETag. A body that is cut short is
        resumed, and transient failures are retried until the deadline.

        Raises:
            StaleObject: the object is no longer *version* (ESTALE).
            NotFound: the object no longer exists (ENOENT).
            Unsupported: the store ignores ranges and the object is large (EOPNOTSUPP).
            Unavailable, BadResponse, AccessDenied: no usable response before the deadline.
        """
        ...


class TaskAPI(Protocol):
    """The calls of the task API that the tree needs; each call sends at least one request."""

    @property
    def clock_offset_s(self) -> float | None:
        """The API's clock minus the local one, in seconds; None before the first response."""
        ...

    def list_tasks(
        self,
        *,
        project: str | None = None,
        status: str | None = None,
        active: bool = False,
        last: int | None = None,
    ) -> list[Task]:
        """Return at most *last* tasks, newest first; with *active*, only the unfinished ones."""
        ...

    def list_page(
        self,
        number: int,
        per_page: int,
        *,
        project: str | None = None,
        status: str | None = None,
        take: Callable[[list[Task]], object] | None = None,
    ) -> TaskPage:
        """Return one page of the listing; pages are numbered from 1.

        With *take*, the page has no tasks: *take* is called with some at a time.
        """
        ...

    def get_task(self, task_id: str) -> Task:
        """Return one task as a listing contains it; raise NotFound if there is none."""
        ...

    def get_status(self, task_id: str) -> TaskStatus:
        """Return the task's status and its position in the queue."""
        ...

    def kill_task(self, task_id: str) -> TaskStatus:
        """Kill the task, and return its status afterwards.

        Raises:
            NotFound, AlreadyTerminated, AccessDenied: refused (ENOENT, ESRCH, EACCES).
            Unavailable: no response after 5 tries (ETIMEDOUT).
            BadResponse: any other refusal (EIO).
        """
        ...

    def set_metadata(self, task_id: str, key: str, value: str) -> None:
        """Set one metadata key of the task."""
        ...

    def remove_metadata(self, task_id: str, key: str) -> None:
        """Remove one metadata key of the task; raise NoAttribute if the task lacks it."""
        ...

    def open_object(self, path: str, region: str | None) -> RemoteObject:
        """Return the object at *path* in the store; this sends no request."""
        ...

    def open_objects(self, paths: Sequence[str], region: str | None) -> list[RemoteObject]:
        """Return several objects, for which one request prepares the first fetches."""
        ...

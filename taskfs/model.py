"""The task as the tree sees it: frozen values and the protocols of the remote side; no I/O.

Times are nanoseconds since the epoch (UTC), sizes bytes. The record itself stays as the JSON that
came, so a field nobody here knows is shown all the same.
"""

import zlib
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from taskfs.support.buffers import Buffer

# The statuses the service documents; others are shown as they come.
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


class Task(NamedTuple):
    """One task's record, as a listing gave it."""

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
    packed_record: bytes = b""

    @property
    def record(self) -> bytes:
        """The record as JSON, as it came but for blanks."""
        return zlib.decompress(self.packed_record) if self.packed_record else b"{}"

    @property
    def last_change_ns(self) -> int:
        """When the task last changed by its record: its end, start or creation; else 0."""
        return self.end_ns or self.start_ns or self.create_ns or 0

    def computation_elapsed(self, now_ns: int) -> float | None:
        """The computation time in seconds at *now_ns*, or None while there is none.

        The metric once the service knows it; while the computation runs, the time since it began.
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


class TaskStatus(NamedTuple):
    """What the API answers to a status or kill request."""

    id: str
    status: str
    is_terminated: bool
    tasks_ahead: int | None = None


class ObjectVersion(NamedTuple):
    """Which bytes a remote object holds: its size and what the store says identifies them."""

    size: int
    etag: str


class Fetched(NamedTuple):
    """One answer to a range request: the bytes [start, start + len(body)) of *version*."""

    start: int
    body: bytes
    version: ObjectVersion


class RemoteObject(Protocol):
    """One object in the store, fetched by byte range; every call may go out."""

    def fetch_tail(self, length: int) -> Fetched:
        """Return the last *length* bytes of the object (all of it if it is smaller).

        The answer tells the object's size and version; nothing needs to be known before. One GET
        with a suffix range (RFC 9110, 14.1.2).

        Raises:
            NotFound: there is no such object (ENOENT).
            Unsupported: the store ignores ranges and the object is large (EOPNOTSUPP).
            Unavailable, BadAnswer, AccessDenied: no usable answer within the budget.
        """
        ...

    def fetch_range(self, start: int, stop: int, version: ObjectVersion) -> Buffer:
        """Return the bytes [start, stop) of *version*, exactly `stop - start` of them.

        One GET, pinned with If-Match where the store gave a strong ETag; a body cut short is
        resumed where it stopped, transient failures are retried within the budget.

        Raises:
            StaleObject: the object is no longer *version* (ESTALE).
            NotFound: there is no such object any more (ENOENT).
            Unsupported: the store ignores ranges and the object is large (EOPNOTSUPP).
            Unavailable, BadAnswer, AccessDenied: no usable answer within the budget.
        """
        ...


class TaskAPI(Protocol):
    """The calls on the task API that the tree needs; every call goes out."""

    @property
    def clock_offset_s(self) -> float | None:
        """The API's clock minus ours in seconds, None before any answer; asks nothing."""
        ...

    def list_tasks(
        self,
        *,
        project: str | None = None,
        status: str | None = None,
        active: bool = False,
        last: int | None = None,
    ) -> list[Task]:
        """Return the tasks, newest first; `last` at most so many, `active` the unfinished only."""
        ...

    def get_task(self, task_id: str) -> Task:
        """Return one task's record as a listing would give it; NotFound if there is none."""
        ...

    def get_status(self, task_id: str) -> TaskStatus:
        """Return the task's status and its place in the queue."""
        ...

    def kill_task(self, task_id: str) -> TaskStatus:
        """Ask the API to kill the task; return what it says of it then.

        Nothing is sent for a task that is already `pending-kill`. If an answer was lost, the
        status is read before the request is repeated.

        Raises:
            NotFound, AlreadyTerminated, AccessDenied: refused (ENOENT, ESRCH, EACCES).
            Unavailable: no answer after 5 tries (ETIMEDOUT).
            BadAnswer: any other refusal (EIO).
        """
        ...

    def set_metadata(self, task_id: str, key: str, value: str) -> None:
        """Set one metadata key of the task."""
        ...

    def remove_metadata(self, task_id: str, key: str) -> None:
        """Remove one metadata key of the task; NoAttribute if it is not there."""
        ...

    def open_object(self, path: str, region: str | None) -> RemoteObject:
        """Return the object stored at *path*; nothing goes out yet."""
        ...

"""The text files of a task's directory, as one table.

A new file is a new row. The tree and its events read the table. N-2 of semantics.md, the README and
the manual page list the files too: `tests/unit/test_documents.py` compares them with it.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from taskfs.model import Task
from taskfs.support.formatting import escape_controls, format_elapsed, format_size
from taskfs.tasks.known_tasks import CachedTask

if TYPE_CHECKING:
    from taskfs.archive.archive import Archive
    from taskfs.archive.listing import Listing


class TaskView(NamedTuple):
    """The input of a text file; `archive` loads the index of the outputs when called."""

    cached: CachedTask
    archive: "Callable[[], Archive | None]"

    @property
    def task(self) -> Task:
        """The task's record."""
        return self.cached.task


class TextFile(NamedTuple):
    """A text file of a task's directory: its content, and when that last changed.

    `needs_record` is set where the content shows a part of the record that may change after the
    task's end (F-22).
    """

    name: str
    render: "Callable[[TaskView], str | Listing]"
    mtime_ns: Callable[[TaskView], int]
    needs_record: bool = False


def _line(text: str) -> str:
    return f"{text}\n" if text else ""


def _render_status(view: TaskView) -> str:
    return _line(view.task.status)


def _render_machine_type(view: TaskView) -> str:
    return _line(view.task.machine_type)


def _render_computation_time(view: TaskView) -> str:
    return _line(format_elapsed(view.task.computation_elapsed(time.time_ns())))


def _render_error(view: TaskView) -> str:
    texts = (view.task.error_detail, view.task.executer_error)
    return _line("\n".join(text.rstrip("\n") for text in dict.fromkeys(texts) if text.strip()))


def _render_record(view: TaskView) -> str:
    return msgspec.json.format(view.task.record, indent=2).decode("utf-8", "replace") + "\n"


def _render_output_files(view: TaskView) -> "str | Listing":
    archive = view.archive()
    return "" if archive is None else list_members(archive)


def list_members(archive: "Archive") -> "str | Listing":
    """Return the table of the archive's files in the format of the public client.

    For an archive whose files cannot be shown, return its size and the reason.
    """
    from taskfs.archive.listing import Listing

    if archive.index_error is None:
        return Listing(archive.size, archive.index)
    why = escape_controls(str(archive.index_error))
    size = format_size(archive.size)
    return f"Archive size: {size}\nThe files of the archive cannot be listed: {why}.\n"


# When a task entered a status, by its record. A status that is missing here is dated by when this
# mount first saw it.
_STATUS_TIMES: Final[dict[str, Callable[[Task], int | None]]] = {
    "pending-input": lambda task: task.create_ns,
    "submitted": lambda task: task.input_submit_ns,
    "started": lambda task: task.start_ns,
    "computation-started": lambda task: task.computation_start_ns,
    "computation-ended": lambda task: task.computation_end_ns,
}


def _newest_ns(task: Task) -> int:
    times = (
        task.end_ns,
        task.computation_end_ns,
        task.computation_start_ns,
        task.start_ns,
        task.input_submit_ns,
        task.create_ns,
    )
    return max((moment for moment in times if moment is not None), default=0)


def _status_ns(view: TaskView) -> int:
    task = view.task
    if task.is_terminated:
        recorded = task.end_ns
    else:
        entered = _STATUS_TIMES.get(task.status)
        recorded = entered(task) if entered else None
    return recorded or view.cached.seen.status_ns or _newest_ns(task)


def _start_ns(view: TaskView) -> int:
    return view.task.start_ns or view.cached.seen.record_ns or view.task.create_ns or 0


def _computation_ns(view: TaskView) -> int:
    task = view.task
    if task.computation_start_ns is None:
        return task.create_ns or 0
    stop_ns = task.computation_end_ns or task.end_ns
    if stop_ns is None and not task.is_terminated:
        # The content changes every second while the computation runs.
        return time.time_ns() // 10**9 * 10**9
    return stop_ns or _newest_ns(task)


def _last_change_ns(view: TaskView) -> int:
    return view.task.last_change_ns


def _error_ns(view: TaskView) -> int:
    return max(view.task.last_change_ns, view.cached.seen.error_ns or 0)


def _record_ns(view: TaskView) -> int:
    return max(_newest_ns(view.task), view.cached.seen.record_ns or 0)


# The order is the order of readdir.
TEXT_FILES: Final = (
    TextFile("status", _render_status, _status_ns),
    TextFile("machine_type", _render_machine_type, _start_ns, needs_record=True),
    TextFile("computation_time", _render_computation_time, _computation_ns),
    TextFile("output_files_info", _render_output_files, _last_change_ns),
    TextFile("info.json", _render_record, _record_ns, needs_record=True),
    TextFile("error", _render_error, _error_ns, needs_record=True),
)

"""`ArchiveKind`: the two archives of a task, their paths in the store, and how late one may be."""

import enum
import time
from typing import Final, NamedTuple

from taskfs.model import Task

# Seconds. A task may succeed before its output archive is in the store. This bounds the time after
# the task's end during which a missing archive is late, not absent.
ARCHIVE_GRACE_S: Final = 60.0


class ArchiveKind(enum.Enum):
    """The output archive or the input archive of a task."""

    OUTPUT = "output"
    INPUT = "input"

    # In C, because each lookup of a name looks for an archive. Members are singletons.
    __hash__ = object.__hash__

    @property
    def root(self) -> str:
        """The prefix of the members that the file system shows."""
        return "artifacts/" if self is ArchiveKind.OUTPUT else "sim_dir/"

    @property
    def directory(self) -> str:
        """The name of the directory in a task's that shows the archive."""
        return f"{self.value}s"

    def path(self, task: Task) -> str | None:
        """Return the archive's path in the store, or None if the record has none."""
        return task.output_path if self is ArchiveKind.OUTPUT else task.input_path

    def identity(self, task: Task) -> tuple[object, ...] | None:
        """Return the part of the record that identifies the archive's version.

        None while the archive may still change.
        """
        if self is ArchiveKind.INPUT:
            return (task.id, task.input_submit_ns) if task.input_submit_ns else None
        if not task.is_terminated:
            return None
        return task.id, task.end_ns, task.output_zipped_bytes

    def expected_members(self, task: Task) -> int | None:
        """Return how many members the record says the archive has, or None."""
        return task.output_files if self is ArchiveKind.OUTPUT else None


class ArchiveKey(NamedTuple):
    """One archive of one task, in any version."""

    task_id: str
    kind: ArchiveKind

    @property
    def directory(self) -> str:
        """The path of the directory that shows the archive."""
        return f"{self.task_id}/{self.kind.directory}"


def remaining_grace_s(task: Task, kind: ArchiveKind, clock_offset_s: float | None = None) -> float:
    """Return for how many seconds a missing archive of *task* counts as late; 0 if it is absent.

    Only the output archive of a task that succeeded can be late, and only if the record has the
    end time: without it, the task may have ended long ago. *clock_offset_s* is the API's clock
    minus the local one.
    """
    if kind is not ArchiveKind.OUTPUT or task.status != "success" or task.end_ns is None:
        return 0.0
    since_end_s = time.time() + (clock_offset_s or 0.0) - task.end_ns / 1e9
    return max(0.0, ARCHIVE_GRACE_S - max(0.0, since_end_s))

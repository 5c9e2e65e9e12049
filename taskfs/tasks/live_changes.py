"""`LiveChanges`: which watched files of running tasks have changed since the last check."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Final, NamedTuple

from taskfs.errors import NotFound, TaskFSError, Unsupported
from taskfs.support.clock import age_clock
from taskfs.tasks.live import LiveFiles
from taskfs.tasks.live_file import Snapshot
from taskfs.tasks.live_tasks import LiveTasks
from taskfs.tasks.live_tree import LiveDirectory

# Seconds between two checks of the files of a task that a program has read; each fetches new bytes.
CHECK_S: Final = 1.0
# Seconds between two questions for the file that was written last: the machine walks over all.
LAST_WRITE_S: Final = 2.0
# Seconds until a machine that failed is asked again.
RETRY_S: Final = 10.0
# Files of one task that are requested in one check: those that were used last.
MAX_FILES: Final = 16


class LiveChange(NamedTuple):
    """A file on the machine of a task that has changed, and its size as far as it is known."""

    task_id: str
    path: bytes
    size: int


class _Task:
    """The state of one task; only one check at a time uses it."""

    def __init__(self) -> None:
        self.check: Future[list[LiveChange]] | None = None
        self.next_s = float("-inf")
        self.states: dict[bytes, tuple[int, int]] = {}  # of files that were read
        self.last_write_next_s = float("-inf")
        self.written_s: float | None = None  # the last write, by the machine's clock


class LiveChanges:
    """Finds changes of the files of running tasks that a program watches. One thread uses it.

    The machines are asked in threads of *pool*, so a silent one delays nothing else. Tasks
    whose files no program has used, and tasks without a watched file, are not asked.
    """

    def __init__(
        self, live: LiveTasks, pool: Executor, clock: Callable[[], float] = age_clock
    ) -> None:
        self._live = live
        self._pool = pool
        self._clock = clock
        self._tasks: dict[str, _Task] = {}

    def take(
        self, task_ids: Iterable[str], is_watched: Callable[[str, bytes], bool]
    ) -> list[LiveChange]:
        """Return the changes in the files of these tasks, and start the next check if it is due.

        *is_watched* returns whether a program watches a path of a task's `live/`, empty for the
        directory itself.
        """
        found: list[LiveChange] = []
        tasks, self._tasks = self._tasks, {}
        for task_id in task_ids:
            task = self._tasks[task_id] = tasks.get(task_id) or _Task()
            if task.check is not None and task.check.done():
                found += task.check.result()
                task.check = None
            if task.check is None and self._clock() >= task.next_s:
                task.next_s = self._clock() + CHECK_S
                self._start_check(task_id, task, is_watched)
        return found

    def _start_check(
        self, task_id: str, task: _Task, is_watched: Callable[[str, bytes], bool]
    ) -> None:
        files = self._live.known_files(task_id)
        listing = files.known_listing if files is not None else None
        if files is None or listing is None:
            return
        watched = frozenset(_watched(listing, b"", lambda path: is_watched(task_id, path)))
        if watched:
            with contextlib.suppress(RuntimeError):  # the system has no thread left
                task.check = self._pool.submit(self._check, task_id, task, files, watched)

    def _check(
        self, task_id: str, task: _Task, files: LiveFiles, watched: frozenset[bytes]
    ) -> list[LiveChange]:
        changed: list[bytes] = []
        try:
            known = files.known_files()
            read = [path for path in known if path in watched][-MAX_FILES:]
            for path in read:
                task.states.setdefault(path, _state(known[path]))
            changed += self._grown(task, files, read)
            changed += self._written(task, files, watched.difference(read))
        except TaskFSError:  # the machine does not answer, or the task has ended
            task.next_s = self._clock() + RETRY_S
        return [LiveChange(task_id, path, files.known_size(path)) for path in changed]

    @staticmethod
    def _grown(task: _Task, files: LiveFiles, read: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the files whose content has changed."""
        for path in read:
            try:
                snapshot = files.update(path)
            except (NotFound, Unsupported):  # it was removed, or is not a text any more
                continue
            if task.states[path] != _state(snapshot):
                task.states[path] = _state(snapshot)
                yield path

    def _written(self, task: _Task, files: LiveFiles, unread: frozenset[bytes]) -> Iterator[bytes]:
        """Yield the file that was written last, if it is one of *unread* and was written since."""
        if not unread or self._clock() < task.last_write_next_s:
            return
        task.last_write_next_s = self._clock() + LAST_WRITE_S
        write = files.last_write()
        if write.path is None or write.written_s is None:
            return
        before_s, task.written_s = task.written_s, write.written_s
        # An older write is the last one if the file of the last one was removed.
        if before_s is None or write.written_s <= before_s:
            return
        name = write.path.encode("utf-8", "surrogateescape")
        found = [path for path in unread if name.endswith(b"/" + path)]
        if found:  # of `a/log` and `log`, the longer one is meant
            path = max(found, key=len)
            files.note_write(path)
            yield path


def _state(snapshot: Snapshot) -> tuple[int, int]:
    return snapshot.generation, snapshot.size


def _watched(
    directory: LiveDirectory, inner: bytes, is_watched: Callable[[bytes], bool]
) -> Iterator[bytes]:
    """Yield the files beneath *directory*, at *inner*, that are watched or whose directory is."""
    is_directory_watched = is_watched(inner)
    for name, below in directory.entries.items():
        path = inner + b"/" + name if inner else name
        if below is not None:
            yield from _watched(below, path, is_watched)
        elif is_directory_watched or is_watched(path):
            yield path

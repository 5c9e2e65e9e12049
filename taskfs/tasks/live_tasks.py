"""`LiveTasks`: the files of all running tasks; all readers of a task share one `LiveFiles`."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from taskfs.errors import NotFound
from taskfs.model import LIVE_STATUSES
from taskfs.support.interruptible_wait import never
from taskfs.tasks.task_cache import TaskCache

if TYPE_CHECKING:
    from taskfs.remote.live_messages import LiveMachine
    from taskfs.tasks.live import LiveFiles

# In bytes: content kept of files that are not open, all tasks together. A search through the logs
# of hundreds of tasks must not fill the memory.
MAX_KEPT_BYTES: Final = 32 << 20


class LiveTasks:
    """The files of the running tasks of one mount.

    Safe for concurrent use: the lock guards the table, and is never held during a request.
    *machine* returns the machine of a task, and sends no request.
    """

    def __init__(
        self,
        machine: "Callable[[str], LiveMachine]",
        task_cache: TaskCache,
        *,
        timeout_s: float,
        interrupted: Callable[[], bool] = never,
    ) -> None:
        self._machine = machine
        self._task_cache = task_cache
        self._timeout_s = timeout_s
        self._interrupted = interrupted
        self._lock = threading.Lock()
        self._files: OrderedDict[str, LiveFiles] = OrderedDict()  # in the order of use

    def is_live(self, task_id: str) -> bool:
        """Whether the machine of the task serves its files, by a status of at most one status TTL.

        Raises what `TaskCache.get` raises, except NotFound.
        """
        try:
            return self._task_cache.get(task_id).task.status in LIVE_STATUSES
        except NotFound:
            return False

    def _is_still_live(self, task_id: str, timeout_s: float) -> bool:
        """Whether the machine of the task serves its files, by a status that is requested now."""
        try:
            return self._task_cache.get_now(task_id, timeout_s).task.status in LIVE_STATUSES
        except NotFound:
            return False

    def known_files(self, task_id: str) -> "LiveFiles | None":
        """Return the files of a task if a program has looked at them; nothing is asked for."""
        with self._lock:
            return self._files.get(task_id)

    def files(self, task_id: str) -> "LiveFiles":
        """Return the files of a task, which should be live."""
        from taskfs.tasks.live import LiveFiles

        with self._lock:
            files = self._files.get(task_id)
            if files is None:
                files = self._files[task_id] = LiveFiles(
                    self._machine(task_id),
                    is_live=lambda timeout_s: self._is_still_live(task_id, timeout_s),
                    timeout_s=self._timeout_s,
                    interrupted=self._interrupted,
                )
            elif next(reversed(self._files)) == task_id:
                return files
            self._files.move_to_end(task_id)
            self._drop_ended()
            self._trim()
            return files

    def _drop_ended(self) -> None:
        for task_id, files in list(self._files.items()):
            cached = self._task_cache.get_cached(task_id)
            has_ended = cached is None or cached.task.status not in LIVE_STATUSES
            if has_ended and not files.is_open:
                del self._files[task_id]

    def _trim(self) -> None:
        kept = {task_id: files.kept_bytes for task_id, files in self._files.items()}
        total = sum(kept.values())
        for task_id, size in kept.items():
            if total <= MAX_KEPT_BYTES:
                return
            self._files[task_id].trim(0)
            total -= size - self._files[task_id].kept_bytes

    def forget(self) -> None:
        """Have the machines asked again; open files keep their snapshots."""
        with self._lock:
            for files in self._files.values():
                files.forget()

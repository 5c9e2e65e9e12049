"""Downloads files, several at a time. Some errors concern one file, others end the run."""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from taskfs.download.run import DownloadItem, DownloadRun, ProgressCallback
from taskfs.errors import CorruptData, TargetRefused, Unsupported
from taskfs.support.formatting import format_count

# More threads only compete for the interpreter, because each reader reads ahead by itself.
FILES_AT_ONCE: Final = 2
# Errors that concern a single file: the other files are downloaded nevertheless.
SINGLE_FILE_ERRORS: Final = (CorruptData, Unsupported, TargetRefused)


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be downloaded, and the reason."""

    path: str
    error: Exception


def download_all(
    items: Sequence[DownloadItem],
    progress: ProgressCallback = lambda size: None,
    warn: Callable[[str], None] = lambda text: None,
) -> list[Failure]:
    """Download all *items*; return the files that failed for reasons of their own.

    A failure that concerns more than its own file (no response, no access, the disk) ends the run
    and is raised, and so is an interrupt; unfinished files are removed first. *progress* is called
    from several threads, one at a time. *warn* is called with a text for the user if the
    files are complete but their times could not be set.
    """
    run = DownloadRun(progress)
    queue = _WorkQueue(items)
    threads = [
        # Daemon threads: after an interrupt, the process ends without waiting for their reads.
        threading.Thread(target=queue.work, args=(run,), name=f"taskfs-download-{n}", daemon=True)
        for n in range(min(FILES_AT_ONCE, len(items)))
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        run.stop()
        raise
    if queue.fatal is not None:
        raise queue.fatal
    if run.files_without_time:
        count = format_count(run.files_without_time, "file")
        warn(
            f"the time of {count} could not be set ({run.time_error}): "
            "the next download fetches them again"
        )
    return queue.failures


class _WorkQueue:
    """The items not yet started, and the failures so far. The lock guards all of it."""

    def __init__(self, items: Iterable[DownloadItem]) -> None:
        self._waiting = iter(items)
        self._lock = threading.Lock()
        self.failures: list[Failure] = []
        self.fatal: Exception | None = None

    def work(self, run: DownloadRun) -> None:
        """Download items until none is left or a fatal error ends the run."""
        while (item := self._next()) is not None:
            try:
                item.download(run)
            except SINGLE_FILE_ERRORS as exc:
                with self._lock:
                    self.failures.append(Failure(str(item.path), exc))
            except OSError as exc:
                # The error names no file, or the temporary one, but the user needs the final path.
                self._abort(OSError(exc.errno, exc.strerror, str(item.path)), run)
            except Exception as exc:
                self._abort(exc, run)

    def _next(self) -> DownloadItem | None:
        with self._lock:
            return None if self.fatal else next(self._waiting, None)

    def _abort(self, error: Exception, run: DownloadRun) -> None:
        with self._lock:
            self.fatal = self.fatal or error
        run.stop()

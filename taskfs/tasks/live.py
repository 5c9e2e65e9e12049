"""`LiveFiles`: the files of one running task, read from its machine while it runs."""

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

from taskfs.errors import (
    BadResponse,
    Interrupted,
    IsADirectory,
    NotFound,
    Unavailable,
    Unsupported,
)
from taskfs.remote.live_messages import (
    LAST_MODIFIED_FILE,
    LS,
    TOP,
    Answer,
    LiveMachine,
    Question,
    SilenceProbe,
)
from taskfs.support.interruptible_wait import POLL_S, never
from taskfs.support.wait_hook import announce_wait
from taskfs.tasks.last_write import LastWrite, parse_last_write
from taskfs.tasks.live_failures import RecentFailures
from taskfs.tasks.live_file import LiveFile, Snapshot
from taskfs.tasks.live_handle import LiveHandle
from taskfs.tasks.live_questions import LiveEnded, LiveQuestions
from taskfs.tasks.live_tree import LiveDirectory, parse_listing

# Files that the task runner writes, in whole lines.
RUNNER_LOGS: Final = frozenset({b"stdout.txt", b"stderr.txt"})
# In seconds: longest age of a listing, which costs the machine a walk over its directory.
LISTING_S: Final = 1.0
# In seconds: a file that was asked for within this time is not asked for again. So a reader at the
# end of a growing file gets the end of the file, instead of new bytes forever.
UPDATE_S: Final = 0.5
# In bytes: content kept of files that are not open, all files of one task together.
MAX_TASK_BYTES: Final = 32 << 20


class _Entry:
    def __init__(self, file: LiveFile) -> None:
        self.file = file
        self.lock = threading.Lock()
        self.handles = 0
        self.is_outdated = False  # the next read asks, however young the snapshot is


class LiveFiles:
    """The files of one task. Safe for concurrent use; the construction sends no request.

    The lock guards the tables alone. Each file has a lock of its own, held while it is asked for:
    a second reader of the file waits for the first, and no longer than its own time or until it is
    interrupted.

    *is_live* asks the API whether the task's status is one of `LIVE_STATUSES`, within the given
    seconds. It is called when the machine lacks a file that it listed, and where `LiveQuestions`
    says.

    Every call raises, besides what it names: Unavailable (ETIMEDOUT; `LiveEnded` where the task has
    ended), BadResponse (EIO), AccessDenied (EACCES), Unsupported (EOPNOTSUPP), Interrupted (EINTR).
    """

    def __init__(
        self,
        machine: LiveMachine,
        *,
        is_live: Callable[[float], bool],
        timeout_s: float = 30.0,
        interrupted: Callable[[], bool] = never,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout_s = timeout_s
        self._interrupted = interrupted
        self._clock = clock
        self._lock = threading.Lock()
        self._listing_lock = threading.Lock()
        self._listing: tuple[float, LiveDirectory] | None = None
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._sizes: dict[bytes, int] = {}
        self._failures = RecentFailures(clock)  # by path, None for the machine as a whole
        self._questions = LiveQuestions(
            machine, self._failures, is_live=is_live, interrupted=interrupted, clock=clock
        )

    # The tree.

    def listing(self) -> LiveDirectory:
        """Return the tree of names, at most `LISTING_S` seconds old."""
        deadline_s = self._clock() + self._timeout_s
        with self._held(self._listing_lock, deadline_s):
            if self._listing is not None and self._clock() - self._listing[0] <= LISTING_S:
                return self._listing[1]
            asked_at_s = self._clock()
            tree = parse_listing(self._message(LS, deadline_s))
            self._listing = asked_at_s, tree
            return tree

    def find(self, path: bytes) -> LiveDirectory | None:
        """Return the directory that *path* names, None for a file.

        Raises:
            NotFound, NotADirectory: the machine lists nothing of that name.
        """
        return self.listing().find(path)

    @property
    def known_listing(self) -> LiveDirectory | None:
        """The last listing, however old; None before the first."""
        return None if self._listing is None else self._listing[1]

    # Files.

    def size(self, path: bytes) -> int:
        """Return the size: 0 if never read, else as of now; the last one if no content is kept."""
        with self._lock:
            entry = self._entries.get(path)
        if entry is None or entry.file.snapshot is None:
            return self._sizes.get(path, 0)
        return self._updated(path, entry).size

    def open(self, path: bytes) -> LiveHandle:
        """Return an open file, with a snapshot as of now.

        Raises:
            NotFound: the listing lacks it; or the machine does, and the task is still live.
            IsADirectory: it is a directory.
        """
        if self.find(path) is not None:
            raise IsADirectory(f"{path!r} is a directory")
        entry = self._entry(path)
        try:
            ask = partial(self._updated, path, entry)
            return LiveHandle(
                ask(), ask, lambda: entry.file.snapshot, partial(self._release, entry)
            )
        except BaseException:
            self._release(entry)
            raise

    def _entry(self, path: bytes) -> _Entry:
        """Return the entry of a file, held for one more handle."""
        with self._lock:
            entry = self._entries.get(path)
            if entry is None:
                file = LiveFile(path, whole_lines=path in RUNNER_LOGS, clock=self._clock)
                entry = self._entries[path] = _Entry(file)
            self._entries.move_to_end(path)
            entry.handles += 1
            return entry

    def _release(self, entry: _Entry) -> None:
        with self._lock:
            entry.handles -= 1
        self.trim(MAX_TASK_BYTES)

    def update(self, path: bytes) -> Snapshot:
        """Return a snapshot as of now of a file that was read; raise NotFound for any other."""
        if (entry := self._entries.get(path)) is None:
            raise NotFound(f"{path!r} was not read")
        return self._updated(path, entry)

    def known_files(self) -> dict[bytes, Snapshot]:
        """Return the files whose content is known, the one that was used last at the end."""
        with self._lock:
            return {path: s for path, entry in self._entries.items() if (s := entry.file.snapshot)}

    def known_size(self, path: bytes) -> int:
        """Return what `size` returned last; nothing is asked for."""
        return self._sizes.get(path, 0)

    def note_write(self, path: bytes) -> None:
        """Note that a file has changed: the next reader asks for it."""
        if (entry := self._entries.get(path)) is not None:
            entry.is_outdated = True

    @property
    def is_open(self) -> bool:
        """Whether any file is open."""
        return any(entry.handles for entry in list(self._entries.values()))

    @property
    def kept_bytes(self) -> int:
        """How many bytes of content are kept."""
        return sum(entry.file.kept_bytes for entry in list(self._entries.values()))

    def trim(self, max_bytes: int) -> None:
        """Drop content of files that are not open while more than *max_bytes* are kept."""
        with self._lock:
            kept = self.kept_bytes
            for entry in self._entries.values():
                if kept <= max_bytes:
                    break
                # A stat without an open file may be updating it.
                if entry.handles == 0 and entry.lock.acquire(blocking=False):
                    kept -= entry.file.kept_bytes
                    entry.file.forget()
                    entry.lock.release()

    def forget(self) -> None:
        """Ask again for everything: drop the listing, failures, and content of unopened files."""
        with self._lock:
            self._listing = None
        self._failures.clear()
        self.trim(0)

    def _updated(self, path: bytes, entry: _Entry) -> Snapshot:
        """Return a snapshot that is at most `UPDATE_S` seconds old."""
        deadline_s = self._clock() + self._timeout_s
        with self._held(entry.lock, deadline_s):
            snapshot = entry.file.snapshot
            is_young = entry.file.age_s <= UPDATE_S and not entry.is_outdated
            if snapshot is not None and is_young:
                return snapshot
            entry.is_outdated = False
            self._failures.check(path)

            def ask(question: Question, silence_probe: SilenceProbe | None = None) -> Answer | None:
                """Ask as `LiveMachine.ask` does, which explains the silence probe."""
                return self._questions.ask(question, deadline_s, silence_probe)

            try:
                snapshot = entry.file.update(ask)
            except NotFound as exc:
                self._questions.check_live(deadline_s)
                raise NotFound(str(exc)) from exc
            except (Unsupported, BadResponse, Unavailable) as exc:
                if not isinstance(exc, LiveEnded):
                    self._failures.remember(path, exc)
                raise
            self._sizes[path] = snapshot.size
            return snapshot

    # Beyond files.

    def top(self) -> str:
        """Return the machine's processes, as top(1) prints them."""
        message = self._message(TOP, self._clock() + self._timeout_s)
        if not isinstance(message, str):
            raise BadResponse("the task's machine answered top with something else than text")
        return message

    def last_write(self) -> LastWrite:
        """Return which file on the machine was written last, and how long ago."""
        return parse_last_write(self._message(LAST_MODIFIED_FILE, self._clock() + self._timeout_s))

    def _message(self, question: Question, deadline_s: float) -> Any:
        answer = self._questions.ask(question, deadline_s)
        if answer is None or answer.status != "success":
            raise BadResponse(f"the task's machine refused {question.type}")
        return answer.message

    @contextlib.contextmanager
    def _held(self, lock: threading.Lock, deadline_s: float) -> Iterator[None]:
        """Hold a lock that another reader may hold while it asks the machine.

        Raises:
            Interrupted: the caller was interrupted while it waited.
            Unavailable: the other reader still waits at the deadline.
        """
        announce_wait()
        while not lock.acquire(timeout=POLL_S):
            if self._interrupted():
                raise Interrupted("interrupted")
            if self._clock() >= deadline_s:
                raise Unavailable("an earlier question to the task's machine is still unanswered")
        try:
            yield
        finally:
            lock.release()

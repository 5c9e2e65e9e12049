"""Which writes on a task's machine count as changes, however long the answers take."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, cast

import pytest

from taskfs.support.thread_pool import DaemonPool
from taskfs.tasks.last_write import LastWrite
from taskfs.tasks.live_changes import LiveChanges
from taskfs.tasks.live_tasks import LiveTasks
from taskfs.tasks.live_tree import LiveDirectory
from tests.live.machine_model import Clock
from tests.mounts import eventually
from tests.threads import no_new_threads


class Inline(Executor):
    """Runs work when it is submitted."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


class Files:
    """The files of one task, as `LiveTasks` and `LiveFiles` have them; no program has read one.

    An answer is on its way for `answer_s` seconds, and `meanwhile` is called.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.written_s: dict[str, float] = {}
        self.answer_s = 0.0
        self.meanwhile: Callable[[], None] = lambda: None
        self.known_listing = LiveDirectory({b"a.log": None, b"b.log": None})

    def write(self, name: str) -> None:
        self.written_s[name] = self._clock()
        self._clock.sleep(0.1)

    def known_files(self, *task_id: str) -> Any:
        return self if task_id else {}

    def last_write(self) -> LastWrite:
        name = max(self.written_s, key=lambda name: self.written_s[name])
        written_s = self.written_s[name]
        answer = LastWrite(f"/run/{name}", self._clock() - written_s, written_s)
        self.meanwhile()
        self._clock.sleep(self.answer_s)
        return answer

    def note_write(self, path: bytes) -> None:
        pass

    def known_size(self, path: bytes) -> int:
        return 0


class Watched:
    """The changes of two watched files, of which `a.log` was written last."""

    def __init__(self, pool: Executor | None = None) -> None:
        self.clock = Clock()
        self.files = Files(self.clock)
        self.files.write("b.log")
        self.files.write("a.log")
        self._changes = LiveChanges(cast(LiveTasks, self.files), pool or Inline(), self.clock)

    def check(self) -> list[bytes]:
        """Ask the machine once, and return the files that have changed."""
        assert self.take() == []
        found = self.take()
        self.clock.sleep(4.0)
        return found

    def take(self) -> list[bytes]:
        """Return the files that have changed, and ask the machine if it is time."""
        return [change.path for change in self._changes.take(["t"], lambda *_: True)]


def test_a_write_while_an_answer_travels() -> None:
    """V-10: A file that is written while the answer with another file is on its way has changed."""
    watched = Watched()
    watched.files.answer_s = 0.9
    watched.files.meanwhile = lambda: watched.files.write("b.log")
    assert watched.check() == []
    watched.files.answer_s = 0.0
    watched.files.meanwhile = lambda: None
    assert watched.check() == [b"b.log"]
    assert watched.check() == []
    watched.files.write("b.log")
    assert watched.check() == [b"b.log"]


def test_a_slow_answer_is_no_write() -> None:
    """V-10: A file has not changed because a later answer about it takes longer."""
    watched = Watched()
    assert watched.check() == []
    for watched.files.answer_s in (5.0, 0.0, 2.0):
        assert watched.check() == []
    watched.files.write("a.log")
    assert watched.check() == [b"a.log"]


def test_the_last_written_file_is_removed() -> None:
    """V-6: The file that is the newest because another one was removed has not changed."""
    watched = Watched()
    assert watched.check() == []
    del watched.files.written_s["a.log"]
    assert watched.check() == []
    watched.files.write("b.log")
    assert watched.check() == [b"b.log"]


def test_a_system_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-55, V-10: A check that found no thread is made again a second later."""
    watched = Watched(DaemonPool(1, "test"))
    with no_new_threads(monkeypatch):
        assert watched.take() == []

    def is_seen() -> bool:
        watched.files.write("b.log")
        watched.clock.sleep(4.0)
        return watched.take() == [b"b.log"]

    eventually(is_seen)

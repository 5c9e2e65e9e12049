"""A system that starts no thread, as at a limit of processes."""

import contextlib
import threading
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def no_new_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have each start of a thread fail."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield

"""`taskfs.fuse.process_memory`: memory that a daemon frees while it runs."""

import gc
import threading
import weakref

import pytest

from taskfs.fuse import process_memory
from tests.mounts import eventually


class _Node:
    def __init__(self) -> None:
        self.itself = self


def test_cycles_are_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-20: Objects that refer to each other are freed, although the interpreter does not look for
    them."""
    monkeypatch.setattr(process_memory, "TRIM_S", 0.01)
    ended = threading.Event()
    thread = threading.Thread(target=process_memory.trim_until, args=(ended,))
    gc.disable()
    try:
        held = weakref.ref(_Node())
        assert held() is not None
        thread.start()
        eventually(lambda: held() is None)
    finally:
        gc.enable()
        ended.set()
        thread.join()

"""`Handle`: an open file; and the handles of text files and of control files.

A text file is read as it was at the open. A write to a control file acts immediately.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from taskfs.errors import ReadOnly
from taskfs.model import ObjectVersion
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from taskfs.tree.held_texts import TextBody
from taskfs.tree.page_cache import PageCacheMode


class Handle(Protocol):
    """One open file: its size in bytes, and the version of the remote object that it reads."""

    mode: PageCacheMode

    @property
    def size(self) -> int: ...
    @property
    def version(self) -> ObjectVersion | None: ...

    def read_at(self, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size) of the file, fewer only at its end."""
        ...

    def write(self, piece: bytes) -> int:
        """Do what a write of *piece* asks for; return how many of its bytes count as written."""
        ...

    def close(self) -> None:
        """Release the resources of the open file."""
        ...


class PushableHandle(ABC):
    """The optional part of a `Handle`: bytes that may be given to the kernel before they are read.

    Only an engine that can push pages asks for them.
    """

    @abstractmethod
    def take_pushable(self) -> range:
        """Return bytes in memory that a sequential reader needs next; each is returned once."""

    @abstractmethod
    def read_for_push(self, offset: int, size: int) -> Buffer:
        """Read bytes that `take_pushable` returned; this does not count as a read by a program."""


class ReadOnlyHandle:
    """The part of a `Handle` that files without writes share."""

    def write(self, piece: bytes) -> int:
        raise ReadOnly("the file cannot be written")


class TextHandle(ReadOnlyHandle):
    """The text of a text file as it was rendered for the open."""

    mode = PageCacheMode.DIRECT
    version = None

    def __init__(self, text: TextBody) -> None:
        self.size = len(text)
        self._text = text

    def read_at(self, offset: int, size: int) -> Buffer:
        return self._text[offset : offset + size]

    def close(self) -> None:
        pass


class ControlHandle:
    """A control file: the first byte that is written through it starts one request.

    Later writes through the same handle start nothing and get the outcome of that request, because
    a shell may cut one line into several writes. A write that is interrupted stops waiting; the
    request continues. *start* never waits, so the request is in flight before a writer can be
    interrupted. Safe for concurrent use: the lock makes the request start once.
    """

    mode = PageCacheMode.DIRECT
    size = 0
    version = None

    def __init__(self, start: Callable[[], "Future[None]"], waiter: Waiter) -> None:
        self._start = start
        self._waiter = waiter
        self._lock = threading.Lock()
        self._request: Future[None] | None = None

    def read_at(self, offset: int, size: int) -> Buffer:
        return b""

    def write(self, piece: bytes) -> int:
        if piece:
            with self._lock:
                if self._request is None:
                    self._request = self._try_start()
            self._waiter.result(self._request)
        return len(piece)

    def _try_start(self) -> "Future[None]":
        try:
            return self._start()
        except Exception as exc:
            failed: Future[None] = Future()
            failed.set_exception(exc)
            return failed

    def close(self) -> None:
        pass

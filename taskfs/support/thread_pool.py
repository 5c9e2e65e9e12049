"""`DaemonPool`: an executor of daemon threads that count the time of work in the queue.

A caller's timeout starts when it submits its work. While a server is silent, the last of many
callers must not wait for the timeouts of all callers before it.

The threads are daemons, because the standard executor joins its threads when the interpreter ends:
a process would then wait for a silent server.
"""

import itertools
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from taskfs.errors import Closed

P = ParamSpec("P")
T = TypeVar("T")

# Threads of one pool that wait and have others in their place. Bounds the memory of their stacks.
MAX_REPLACED: Final = 64

_running = threading.local()


def submitted_s() -> float | None:
    """Return when the work of the calling thread was submitted, by `time.monotonic`, if known."""
    return getattr(_running, "submitted_s", None)


def restart_clock() -> None:
    """Count the time of the calling thread's work from now on: it has waited for other work."""
    if submitted_s() is not None:
        _running.submitted_s = time.monotonic()


def let_another_run() -> None:
    """Start another thread of the calling thread's pool in its place, before it waits for its turn.

    The calling thread is in excess from then on, and ends after its present work. In a thread of no
    pool, when `MAX_REPLACED` threads of the pool are in excess, or when the system has no thread
    left, the call does nothing.
    """
    threads: _Threads | None = getattr(_running, "threads", None)
    if threads is not None:
        threads.replace_current()


class DaemonPool(Executor):
    """At most *max_threads* daemon threads, started when there is work for them, and those that
    have called `let_another_run`.

    Safe for concurrent use: the lock guards the number of threads and the shutdown flag. A thread
    refers to the queue and not to the pool, so it ends when the pool is garbage collected.
    """

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._lock = threading.RLock()  # a finalizer may run while it is held
        self._threads = _Threads(name)
        self._work = self._threads.work
        self._started = 0
        self._is_shut_down = False
        weakref.finalize(self, self._work.put, None)

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Call *function* in a thread of the pool.

        Work that a thread of a pool submits is as old as the work that this thread runs.

        Raises:
            Closed: the pool is shut down.
            RuntimeError: it has no thread, and the system cannot start one.
        """
        future: Future[T] = Future()
        since_s = submitted_s() or time.monotonic()
        with self._lock:
            if self._is_shut_down:
                raise Closed("the file system is closed")
            self._work.put((future, since_s, partial(function, *args, **kwargs)))
            is_one_idle = self._threads.idle.acquire(blocking=False)
            if not is_one_idle and self._started < self._max_threads:
                self._start_thread()
        return future

    def _start_thread(self) -> None:
        """Start one more thread.

        If that fails and no thread serves the queue, take back the work that was added last.
        """
        try:
            self._threads.start_one()
            self._started += 1
        except RuntimeError:  # the system has no thread left
            if not self._started:
                self._work.get_nowait()  # no thread serves the queue, so it holds nothing else
                raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more work and let the threads end; never wait for them, whatever *wait* is."""
        with self._lock:
            self._is_shut_down = True
            while cancel_futures:
                try:
                    work = self._work.get_nowait()
                except queue.Empty:
                    break
                if work is not None:
                    work[0].cancel()
            self._work.put(None)


_Work = tuple["Future[Any]", float, Callable[[], Any]]


class _Threads:
    """The queue and the threads of one pool, without the pool. Safe for concurrent use."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = itertools.count(1)
        self._replaceable = threading.Semaphore(MAX_REPLACED)
        self.work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self.idle = threading.Semaphore(0)  # the number of threads that wait for work

    def start_one(self) -> None:
        """Start one more thread."""
        name = f"{self._name}-{next(self._numbers)}"
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def replace_current(self) -> None:
        """Start a thread in place of the calling one, which ends after its present work."""
        if _running.is_replaced or not self._replaceable.acquire(blocking=False):
            return
        try:
            self.start_one()
        except RuntimeError:  # the system has no thread left
            self._replaceable.release()
        else:
            _running.is_replaced = True

    def _serve(self) -> None:
        _running.threads, _running.is_replaced = self, False
        while not _running.is_replaced:
            try:
                item = self.work.get_nowait()
            except queue.Empty:
                self.idle.release()
                item = self.work.get()
            if item is None:
                self.work.put(None)  # for the other threads
                return
            future, _running.submitted_s, function = item
            if future.set_running_or_notify_cancel():
                try:
                    outcome = function()
                except BaseException as exc:
                    future.set_exception(exc)
                else:
                    future.set_result(outcome)
                    del outcome
            _running.submitted_s = None
            del item, future, function  # an idle thread holds no references
        self._replaceable.release()

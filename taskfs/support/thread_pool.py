"""`DaemonPool`: an executor of daemon threads that count the time of work in the queue.

A caller's timeout starts when it submits its work. While a server is silent, the last of many
callers must not wait for the timeouts of all callers before it.

The threads are daemons, because the standard executor joins its threads when the interpreter ends:
a process would then wait for a silent server.
"""

import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_running = threading.local()


def submitted_s() -> float | None:
    """Return when the work of the calling thread was submitted, by `time.monotonic`, if known."""
    return getattr(_running, "submitted_s", None)


def restart_clock() -> None:
    """Count the time of the calling thread's work from now on: it has waited for other work."""
    if submitted_s() is not None:
        _running.submitted_s = time.monotonic()


class DaemonPool(Executor):
    """At most *max_threads* daemon threads, started when there is work for them.

    Safe for concurrent use: the lock guards the number of threads and the shutdown flag. A thread
    refers to the queue and not to the pool, so it ends when the pool is garbage collected.
    """

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads = max_threads
        self._name = name
        self._lock = threading.RLock()  # a finalizer may run while it is held
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads = 0
        self._is_shut_down = False
        weakref.finalize(self, self._work.put, None)

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Call *function* in a thread of the pool.

        Work that a thread of a pool submits is as old as the work that this thread runs.

        Raises:
            RuntimeError: the pool is shut down.
        """
        future: Future[T] = Future()
        since_s = submitted_s() or time.monotonic()
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("the pool is shut down")
            self._work.put((future, since_s, partial(function, *args, **kwargs)))
            if not self._idle.acquire(blocking=False) and self._threads < self._max_threads:
                self._threads += 1
                threading.Thread(
                    target=_serve,
                    args=(self._work, self._idle),
                    name=f"{self._name}-{self._threads}",
                    daemon=True,
                ).start()
        return future

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


def _serve(work: "queue.SimpleQueue[_Work | None]", idle: threading.Semaphore) -> None:
    while True:
        try:
            item = work.get_nowait()
        except queue.Empty:
            idle.release()
            item = work.get()
        if item is None:
            work.put(None)  # for the other threads
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

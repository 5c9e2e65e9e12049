"""Blocking calls of the event loop of live connections, in threads that nothing waits for."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def in_thread(function: Callable[[Callable[[], bool]], T], *, name: str) -> T:
    """Return what *function* returns, called in a daemon thread of its own with this *name*.

    The loop's default threads would delay the end of the interpreter until the call ends, and a
    task whose machine is silent would delay other tasks. *function* takes a callable that returns
    whether its outcome was abandoned.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            value = function(outcome.done)
        except Exception as exc:
            settle(partial(outcome.set_exception, exc))
        else:
            settle(partial(outcome.set_result, value))

    def settle(set_outcome: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(lambda: None if outcome.done() else set_outcome())

    threading.Thread(target=run, name=name, daemon=True).start()
    return await outcome

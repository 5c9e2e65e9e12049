"""`Lead`: which thread of a session reads /dev/fuse.

This is the leader/followers pattern. One thread at a time, the leader, reads requests and answers
them itself, so an answer from memory costs no switch of threads. Before the leader waits, it hands
the lead, the right to read, to another thread (`support.wait_hook`). A watchdog finds waits that
are not announced, for a lock or a slow disk.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

# Seconds between two checks of the watchdog. A thread that serves the same request at both loses
# the lead. An answer from memory takes far less; a user does not notice the delay.
WATCH_S: Final = 0.02
# Checks without a request after which the watchdog sleeps until the next request: a mount without
# requests wakes the processor for one second only.
MAX_QUIET: Final = 50


class Lead:
    """The lead of one session.

    Safe for concurrent use: `_served` changes by single operations of a dict. It holds the request
    that the leader serves, and the thread that removes it decides whether the lead is handed over.
    *on_hand_over* makes sure that a thread waits for the lead.
    """

    def __init__(self, on_hand_over: Callable[[], None]) -> None:
        self._on_hand_over = on_hand_over
        self._lead = threading.Lock()
        self._served: dict[int, None] = {}  # by the request's number
        self._is_active = threading.Event()  # clear while the watchdog sleeps
        self._has_ended = False

    def take(self) -> None:
        """Wait for the lead."""
        self._lead.acquire()

    def begin(self, request: int) -> None:
        """Note that the leader serves *request*."""
        self._served[request] = None
        if not self._is_active.is_set():
            self._is_active.set()

    def keep(self, request: int) -> bool:
        """Note that *request* is served; return whether its thread still has the lead."""
        return self._served.pop(request, self) is None

    def hand_over(self, request: int) -> None:
        """Let another thread lead, if the one that serves *request* does."""
        if self._served.pop(request, self) is None:
            self._on_hand_over()
            self._lead.release()

    def end(self) -> None:
        """Release the lead, because the mount is gone: each thread takes it once and ends."""
        self._has_ended = True
        self._is_active.set()
        self._lead.release()

    def watch(self) -> None:
        """Hand over the lead of a thread that serves one request too long; return after `end`."""
        seen, quiet = None, 0
        while not self._has_ended:
            time.sleep(WATCH_S)
            before, seen = seen, next(iter(list(self._served)), None)
            if seen is not None:
                quiet = 0
                if seen == before:
                    self.hand_over(seen)
            elif (quiet := quiet + 1) > MAX_QUIET:
                self._is_active.clear()
                if not self._served and not self._has_ended:
                    self._is_active.wait()
                quiet = 0

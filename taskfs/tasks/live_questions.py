"""`LiveQuestions`: questions to the machine of a task that may end before it answers."""

import contextlib
from collections.abc import Callable
from typing import Final

from taskfs.errors import Interrupted, TaskFSError, Unavailable, Unsupported
from taskfs.remote.live_messages import Answer, LiveMachine, MachineGone, Question, SilenceProbe
from taskfs.tasks.live_failures import RecentFailures

# In seconds: request the status once a question has taken this long, and whenever a machine that
# has disconnected has not come back for so long.
RECONNECT_S: Final = 8.0
# Connections that may end during one question. After that many, the question fails.
MAX_DISCONNECTS: Final = 3
# In seconds: a request for the task's status may take this long even after the deadline.
STATUS_S: Final = 1.0
ENDED: Final = "the task has ended: its files come with its archive"


class LiveEnded(Unavailable):
    """The task has left the statuses in which its machine serves its files."""


class LiveQuestions:
    """Asks *machine*, and *is_live* where its silence may come from the end of the task.

    A machine may disconnect shortly before the status of its task changes, and the caller's status
    may be older. So the status is requested while there is no new connection, and once if no answer
    has come for `RECONNECT_S`. The reader that learns of the end wakes all others.

    A failure of the machine is remembered in *failures*, by the key None. Safe for concurrent use.
    """

    def __init__(
        self,
        machine: LiveMachine,
        failures: RecentFailures,
        *,
        is_live: Callable[[float], bool],
        interrupted: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._machine = machine
        self._failures = failures
        self._is_live = is_live
        self._interrupted = interrupted
        self._clock = clock
        self._has_ended = False  # by the status that was requested last

    def ask(
        self, question: Question, deadline_s: float, silence_probe: SilenceProbe | None = None
    ) -> Answer | None:
        """Ask as `LiveMachine.ask` does, again if the connection ends while the task is live."""
        self._failures.check(None)
        if self._has_ended:  # the caller knew an older status, or the task runs again
            self.check_live(deadline_s)
        disconnects = 0
        check_at_s = self._clock() + RECONNECT_S

        def should_stop() -> bool:
            nonlocal check_at_s
            if self._clock() >= check_at_s:
                check_at_s = float("inf")
                with contextlib.suppress(TaskFSError):  # the question may still be answered
                    self._has_ended = not self._is_live(STATUS_S)
            return self._has_ended or self._interrupted()

        while True:
            remaining_s = max(0.0, deadline_s - self._clock())
            try:
                return self._machine.ask(
                    question,
                    min(remaining_s, RECONNECT_S) if disconnects else remaining_s,
                    should_stop,
                    silence_probe,
                )
            except Interrupted:
                if self._has_ended:
                    raise LiveEnded(ENDED) from None
                raise
            except MachineGone as exc:
                self.check_live(deadline_s)
                disconnects += 1
                if disconnects == MAX_DISCONNECTS:
                    self._failures.remember(None, exc)
                    raise
            except Unsupported as exc:
                self._failures.remember(None, exc)
                raise
            except Unavailable as exc:
                if not disconnects or remaining_s <= RECONNECT_S:
                    self._failures.remember(None, exc)
                    self.check_live(deadline_s)
                    raise
                self.check_live(deadline_s)

    def check_live(self, deadline_s: float) -> None:
        """Raise LiveEnded if the task has ended: a silence then says nothing about a file."""
        self._has_ended = not self._is_live(max(STATUS_S, deadline_s - self._clock()))
        if self._has_ended:
            raise LiveEnded(ENDED)

"""Retries of transient failures until a deadline, because a reader waits meanwhile."""

import email.utils
import random
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Final, TypeVar

from taskfs.errors import TaskFSError
from taskfs.remote import wait_notice

T = TypeVar("T")

# Seconds to wait for a TCP or TLS connection: a lost packet is sent again after 1 and 3 s.
CONNECT_TIMEOUT_S: Final = 5.0
# Seconds of the longest wait for the next byte, one day. A socket's timeout overflows after 49 d,
# because poll(2) has 32 bits for the milliseconds.
MAX_READ_TIMEOUT_S: Final = 86_400.0
# Bytes per second. A body may arrive after the deadline while it comes at this rate. At a lower one
# a block of 64 KiB takes more than 4 s, and the connection counts as stalled.
MIN_BYTES_PER_S: Final = 16 * 1024
# Upper limits, in seconds, of the pause before the second try and of all later pauses.
FIRST_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 4.0


class Transient(Exception):
    """A signal to `retry_transient`: *error* is worth another try, and is raised if all tries fail.

    *retry_after_s* is the server's Retry-After. *max_tries* bounds failures that a second try may
    cure and a third will not, such as a wrong response; None if the deadline is the only bound.
    """

    def __init__(
        self,
        error: TaskFSError,
        *,
        retry_after_s: float | None = None,
        max_tries: int | None = None,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s
        self.max_tries = max_tries


class Deadline:
    """The end of the time of one operation with all its tries; received bytes defer it.

    *began_s* is a time of `time.monotonic`.
    """

    def __init__(self, timeout_s: float, began_s: float) -> None:
        self.timeout_s = timeout_s
        self.began_s = began_s
        self.received = 0  # bytes

    @property
    def remaining_s(self) -> float:
        """Seconds left; 0 or less when the deadline is past."""
        allowed_s = self.timeout_s + self.received / MIN_BYTES_PER_S
        return self.began_s + allowed_s - time.monotonic()

    def attempt_timeout_s(self) -> tuple[float, float]:
        """Return the connect and read timeouts of one try; a stall leaves time for another."""
        remaining_s = max(0.05, self.remaining_s)
        return min(CONNECT_TIMEOUT_S, remaining_s), min(self._read_timeout_s, remaining_s)

    @property
    def cuts_next_try(self) -> bool:
        """Whether less time is left than a try's read timeout."""
        return self.remaining_s < self._read_timeout_s

    @property
    def _read_timeout_s(self) -> float:
        return min(max(1.0, self.timeout_s / 3), MAX_READ_TIMEOUT_S)


def retry_transient(
    attempt: Callable[[Deadline], T],
    deadline: Deadline,
    before_pause: Callable[[Transient, float], None],
) -> T:
    """Call *attempt* until it does not raise `Transient`, and return its result.

    The pauses between the tries are random, and their upper limit doubles; `Retry-After` is a lower
    limit. *before_pause* is called with each failure and the seconds until the next try.

    Raises:
        TaskFSError: the error inside the last `Transient`, if the next try would come after the
            deadline, or if there were `max_tries` failures of bounded tries. If the deadline cut
            the last try short, the error of the try before it, which says more.
        Exception: what *attempt* raises apart from `Transient`.
    """
    limit_s = FIRST_PAUSE_S
    bounded_failures = 0
    previous: Transient | None = None
    while True:
        is_cut = deadline.cuts_next_try
        try:
            result = attempt(deadline)
            break
        except Transient as failure:
            pause_s = max(failure.retry_after_s or 0.0, random.uniform(0.0, limit_s))
            bounded_failures += failure.max_tries is not None
            out_of_tries = failure.max_tries is not None and bounded_failures >= failure.max_tries
            if out_of_tries or pause_s >= deadline.remaining_s:
                if previous is not None and is_cut and deadline.remaining_s <= 0:
                    failure = previous
                raise failure.error from failure.__cause__
            previous = failure
            before_pause(failure, pause_s)
            wait_notice.pause_before_retry(
                pause_s, deadline.began_s, deadline.timeout_s, str(failure)
            )
        limit_s = min(2 * limit_s, MAX_PAUSE_S)
    wait_notice.set_notifier(None)
    return result


def retry_after_s(value: str | None) -> float | None:
    """Return the seconds in a Retry-After header (RFC 9110, 10.2.3), None if it has none."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    moment = http_date_s(value)
    return None if moment is None else max(0.0, moment - time.time())


def http_date_s(date: str) -> float | None:
    """Return an HTTP date (RFC 9110, 5.6.7) in Unix seconds, None if *date* is not one."""
    try:
        moment = email.utils.parsedate_to_datetime(date)
        return _utc(moment).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)

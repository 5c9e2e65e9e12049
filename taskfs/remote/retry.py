"""Which failures are tried again, for how long, and when: a blocked reader is waiting."""

import email.utils
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final, TypeVar

from taskfs.errors import TaskFSError

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 5.0
# A body may take longer than the budget as long as bytes keep coming at this rate.
MIN_BYTES_PER_S: Final = 16 * 1024


class Transient(Exception):
    """A failure worth another try: `error` is raised once the budget is used up.

    `retry_after_s` is how long the server asked to wait; `tries` bounds answers that a second
    look may cure but patience will not.
    """

    def __init__(
        self, error: TaskFSError, *, retry_after_s: float | None = None, tries: int | None = None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s
        self.tries = tries


@dataclass(slots=True)
class Budget:
    """How long one exchange may go on trying; bytes that arrive extend it."""

    timeout_s: float
    began: float
    received: int = 0

    @property
    def remaining_s(self) -> float:
        """Seconds left; 0 or less when the budget is used up."""
        allowed = self.timeout_s + self.received / MIN_BYTES_PER_S
        return self.began + allowed - time.monotonic()

    def attempt_timeout_s(self) -> tuple[float, float]:
        """The connect and read timeouts of one attempt: a stall leaves time for another one."""
        remaining = max(0.05, self.remaining_s)
        return min(CONNECT_TIMEOUT_S, remaining), min(max(1.0, self.timeout_s / 3), remaining)


def retrying(
    attempt: Callable[[Budget], T], budget: Budget, again: Callable[[Transient, float], None]
) -> T:
    """Return what *attempt* returns, tried again with backoff and jitter while it is transient.

    *again* is told each failure and how many seconds pass before the next try.

    Raises:
        the error inside the last `Transient` once the budget, or its own number of tries, is used
            up; whatever else *attempt* raises.
    """
    first: Transient | None
    try:
        return attempt(budget)
    except Transient as exc:
        first = exc
    import tenacity  # a tenth of what a command takes to start, and rarely needed

    def next_attempt(budget: Budget) -> T:
        nonlocal first
        if first is not None:
            failure, first = first, None
            raise failure
        return attempt(budget)

    jitter = tenacity.wait_random_exponential(multiplier=0.1, max=4.0)
    wrong_answers = 0  # other failures in between are no look at one

    def wait(state: "RetryCallState") -> float:
        return max(_failure(state).retry_after_s or 0.0, jitter(state))

    def stop(state: "RetryCallState") -> bool:
        nonlocal wrong_answers
        tries = _failure(state).tries
        wrong_answers += tries is not None
        out_of_tries = tries is not None and wrong_answers >= tries
        return out_of_tries or state.upcoming_sleep >= budget.remaining_s

    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Transient),
        wait=wait,
        stop=stop,
        before_sleep=lambda state: again(_failure(state), state.upcoming_sleep),
        reraise=True,
    )
    try:
        return tries(next_attempt, budget)
    except Transient as exc:
        raise exc.error from exc.__cause__


def _failure(state: "RetryCallState") -> Transient:
    assert state.outcome is not None
    failure = state.outcome.exception()
    assert isinstance(failure, Transient)
    return failure


def retry_after_s(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3), or None."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    moment = http_date_s(value)
    return None if moment is None else max(0.0, moment - time.time())


def http_date_s(date: str) -> float | None:
    """Return an HTTP date (RFC 9110, 5.6.7) in Unix seconds, None for what is no date."""
    try:
        moment = email.utils.parsedate_to_datetime(date)
        return _utc(moment).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)

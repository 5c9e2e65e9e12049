"""`SingleFlight`: one request for all who wait, and none of the wait for who need not."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from taskfs.errors import BadAnswer, NotFound, Unavailable
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.single_flight import BACKOFF_S, FALLBACK_WAIT_S, SingleFlight
from tests.unit.fakes import Clock


class Remote:
    """What answers, fails, or keeps silent until `speak` is set."""

    def __init__(self) -> None:
        self.asked = 0
        self.failure: Exception | None = None
        self.speak = threading.Event()
        self.speak.set()

    def __call__(self) -> None:
        self.asked += 1
        assert self.speak.wait(30)
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def remote() -> Iterator[Remote]:
    remote = Remote()
    yield remote
    remote.speak.set()


@pytest.fixture
def flight(clock: Clock, remote: Remote) -> Iterator[SingleFlight]:
    with ThreadPoolExecutor(4) as pool:
        yield SingleFlight(pool, Waiter(), clock)
        remote.speak.set()


def test_who_could_do_without_it_waits_a_second_in_all(
    flight: SingleFlight, remote: Remote
) -> None:
    """O-13: A caller that can do without the answer waits a second in all while the API is away."""
    remote.speak.clear()
    began = time.monotonic()
    for key in ("a", "a", "b", "c"):
        with pytest.raises(Unavailable):
            flight.run(key, remote, has_fallback=True)
    assert FALLBACK_WAIT_S <= time.monotonic() - began < 4 * FALLBACK_WAIT_S
    assert (remote.asked, flight.is_failing) == (1, True)
    remote.speak.set()
    flight.run("d", remote)
    assert not flight.is_failing
    flight.run("e", remote, has_fallback=True)  # an answer ends it at once
    assert remote.asked == 3


def test_after_a_failure_nobody_asks_for_a_while(
    flight: SingleFlight, remote: Remote, clock: Clock
) -> None:
    """O-13: After a failure such callers do not ask for a while; those that need the answer ask
    each time."""
    remote.failure = BadAnswer("503")
    with pytest.raises(BadAnswer):
        flight.run("a", remote, has_fallback=True)
    with pytest.raises(Unavailable):
        flight.run("a", remote, has_fallback=True)
    assert remote.asked == 1
    with pytest.raises(BadAnswer):
        flight.run("a", remote)
    assert remote.asked == 2
    clock.tick(BACKOFF_S + 0.1)
    remote.failure = None
    flight.run("a", remote, has_fallback=True)
    assert (remote.asked, flight.is_failing) == (3, False)


def test_a_404_is_an_answer(flight: SingleFlight, remote: Remote) -> None:
    """F-14: A 404 is an answer and does not mean that the API is away."""
    remote.failure = NotFound("x")
    with pytest.raises(NotFound):
        flight.run("a", remote, has_fallback=True)
    assert not flight.is_failing
    with pytest.raises(NotFound):
        flight.run_inline(remote)
    assert remote.asked == 2

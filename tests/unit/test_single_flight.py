"""`SingleFlight`: callers share a request, and callers with a fallback wait briefly."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from taskfs.errors import BadResponse, NotFound, Unavailable
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.single_flight import SingleFlight
from tests.unit.fakes import Clock


class Remote:
    """A server that responds, fails, or stays silent until `speak` is set."""

    def __init__(self) -> None:
        self.asked = 0
        self.failure: Exception | None = None
        self.speak = threading.Event()
        self.speak.set()

    def __call__(self) -> None:
        self.asked += 1
        assert self.speak.wait(60)
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


def test_callers_with_a_fallback_wait_for_one_second_together(
    flight: SingleFlight, remote: Remote
) -> None:
    """O-13: While the API is away, a finished task costs one second at most, and only once."""
    remote.speak.clear()
    began = time.monotonic()
    for key in ("a", "a", "b", "c"):
        with pytest.raises(Unavailable):
            flight.run(key, remote, has_fallback=True)
    assert 1.0 <= time.monotonic() - began < 30.0  # not until the server speaks
    assert (remote.asked, flight.is_failing) == (1, True)
    remote.speak.set()
    flight.run("d", remote)
    assert not flight.is_failing
    flight.run("e", remote, has_fallback=True)  # an answer ends it at once
    assert remote.asked == 3


def test_a_caller_with_a_fallback_waits_for_a_run_that_it_did_not_begin(
    flight: SingleFlight, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O-13: A caller with a fallback also waits for a request that was begun in the background."""
    monkeypatch.setattr("taskfs.support.single_flight.FALLBACK_WAIT_S", 60.0)
    remote.speak.clear()
    flight.start("a", remote)
    threading.Timer(0.2, remote.speak.set).start()
    flight.run("a", remote, has_fallback=True)
    assert (remote.asked, flight.is_failing) == (1, False)


def test_after_a_failure_callers_with_a_fallback_do_not_wait(
    flight: SingleFlight, remote: Remote, clock: Clock
) -> None:
    """O-13: After a failure, callers with a fallback do not wait for 5 s; others send a request
    each."""
    remote.failure = BadResponse("503")
    with pytest.raises(BadResponse):
        flight.run("a", remote, has_fallback=True)
    with pytest.raises(Unavailable):
        flight.run("a", remote, has_fallback=True)
    assert remote.asked == 1
    with pytest.raises(BadResponse):
        flight.run("a", remote)
    assert remote.asked == 2
    remote.failure = None
    clock.tick(4.9)
    with pytest.raises(Unavailable):
        flight.run("a", remote, has_fallback=True)
    clock.tick(0.2)
    flight.run("a", remote, has_fallback=True)
    assert (remote.asked, flight.is_failing) == (3, False)


def test_not_found_is_no_failure(flight: SingleFlight, remote: Remote) -> None:
    """F-14, O-15: A 404 of the API shows that the API is there."""
    remote.failure = NotFound("x")
    with pytest.raises(NotFound):
        flight.run("a", remote, has_fallback=True)
    assert not flight.is_failing
    with pytest.raises(NotFound):
        flight.run_inline(remote)
    assert remote.asked == 2

"""`LongBuilds`: one build at a time, and which waits count."""

import contextlib
import threading
from collections.abc import Iterator

import pytest

from taskfs.archive.long_builds import LongBuilds
from taskfs.support.thread_pool import DaemonPool, submitted_s

TIMEOUT_S = 30.0


@pytest.fixture
def pool() -> Iterator[DaemonPool]:
    pool = DaemonPool(2, "builds")
    yield pool
    pool.shutdown()


@pytest.mark.parametrize("has_failed", [False, True])
def test_a_wait_counts_after_a_failure(pool: DaemonPool, has_failed: bool) -> None:
    """X-15: The time of a wait counts only if the build before has failed."""
    builds, has_turn, may_end = LongBuilds(), threading.Event(), threading.Event()

    def build_first() -> None:
        with contextlib.suppress(OSError), builds.turn(lambda: True):
            has_turn.set()
            may_end.wait(TIMEOUT_S)
            if has_failed:
                raise OSError

    def clock_in_turn() -> tuple[float | None, float | None]:
        before_s = submitted_s()
        threading.Timer(0.3, may_end.set).start()
        with builds.turn(lambda: True):
            return before_s, submitted_s()

    first = pool.submit(build_first)
    assert has_turn.wait(TIMEOUT_S)
    before_s, after_s = pool.submit(clock_in_turn).result(TIMEOUT_S)
    first.result(TIMEOUT_S)
    assert before_s is not None and after_s is not None
    assert (after_s == before_s) is has_failed

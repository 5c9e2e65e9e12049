"""`DaemonPool`: like the standard executor, but never delays the end of the process."""

import gc
import subprocess
import sys
import threading
import time
from typing import Final

import pytest

from taskfs.errors import Unavailable
from taskfs.support import thread_pool
from taskfs.support.thread_pool import DaemonPool, let_another_run
from tests.fork_server import ROOT
from tests.mounts import eventually
from tests.threads import no_new_threads

PATIENCE_S: Final = 20.0


def test_a_thread_starts_when_there_is_work_for_it() -> None:
    """`DaemonPool`: at most *max_threads* threads, started when there is work for them."""
    pool = DaemonPool(3, "test-pool")
    gate, inside = threading.Event(), threading.Semaphore(0)

    def work(number: int) -> int:
        inside.release()
        gate.wait(PATIENCE_S)
        return number

    futures = [pool.submit(work, number) for number in range(5)]
    for _ in range(3):
        assert inside.acquire(timeout=PATIENCE_S)
    assert sum(t.name.startswith("test-pool-") for t in threading.enumerate()) == 3
    gate.set()
    assert [future.result(PATIENCE_S) for future in futures] == list(range(5))
    assert list(pool.map(abs, (-1, -2))) == [1, 2]
    assert sum(t.name.startswith("test-pool-") for t in threading.enumerate()) == 3


def test_an_idle_thread_runs_the_next_work() -> None:
    """`DaemonPool`: no thread is started while another is idle."""
    pool = DaemonPool(8, "test-idle")
    for _ in range(20):
        pool.submit(abs, 1).result(PATIENCE_S)
        time.sleep(0.01)
    assert sum(t.name.startswith("test-idle-") for t in threading.enumerate()) < 8


def test_a_thread_that_waits_has_another_one_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-54: Work goes on while more threads wait for their turn than the pool has, up to a bound,
    and the threads in excess end."""
    monkeypatch.setattr(thread_pool, "MAX_REPLACED", 3)
    pool = DaemonPool(2, "test-turn")
    gate = threading.Event()

    def wait() -> None:
        for _ in range(2):  # the second call does nothing
            let_another_run()
        gate.wait(PATIENCE_S)

    waiting = [pool.submit(wait) for _ in range(4)]
    assert pool.submit(abs, -1).result(PATIENCE_S) == 1
    waiting.append(pool.submit(wait))
    last = pool.submit(abs, -2)
    assert not last.done()
    gate.set()
    for future in waiting:
        future.result(PATIENCE_S)
    assert last.result(PATIENCE_S) == 2
    eventually(lambda: sum(t.name.startswith("test-turn-") for t in threading.enumerate()) == 2)
    let_another_run()  # in a thread of no pool


def test_failures_and_cancelled_work() -> None:
    """A failure belongs to its future, and cancelled work is never called."""
    pool = DaemonPool(1, "test-fail")
    gate = threading.Event()
    called: list[int] = []
    pool.submit(gate.wait, PATIENCE_S)
    failing = pool.submit(int, "x")
    cancelled = pool.submit(called.append, 1)
    assert cancelled.cancel()
    left = pool.submit(called.append, 2)
    pool.submit(called.append, 3)
    gate.set()
    with pytest.raises(ValueError):
        failing.result(PATIENCE_S)
    left.result(PATIENCE_S)
    eventually(lambda: called == [2, 3])


def test_shutdown_cancels_queued_work() -> None:
    """`DaemonPool.shutdown`: like the standard one, but never waits for threads."""
    pool = DaemonPool(1, "test-shut")
    gate, begun = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return gate.wait(PATIENCE_S)

    running = pool.submit(work)
    assert begun.wait(PATIENCE_S)
    waiting = pool.submit(abs, 1)
    pool.shutdown(cancel_futures=True)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError) as refused:
        pool.submit(abs, 1)
    assert isinstance(refused.value, Unavailable)
    gate.set()
    assert running.result(PATIENCE_S)
    eventually(lambda: not any(t.name.startswith("test-shut-") for t in threading.enumerate()))


def test_a_system_without_a_thread_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-54: Where the system starts no thread, work that would let another run goes on alone."""
    pool = DaemonPool(1, "test-full")

    def work() -> int:
        let_another_run()
        return 1

    pool.submit(abs, 1).result(PATIENCE_S)
    with no_new_threads(monkeypatch):
        assert [pool.submit(work).result(PATIENCE_S) for _ in range(3)] == [1, 1, 1]


def test_a_system_that_has_no_thread_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-55: A failed start of a thread fails the work that has no other thread, which is then never
    called, and nothing that is submitted later."""
    pool = DaemonPool(2, "test-moment")
    gate = threading.Event()
    called: list[int] = []
    with no_new_threads(monkeypatch):
        for number in range(3):
            with pytest.raises(RuntimeError, match="can't start"):
                pool.submit(called.append, number)
    waiting = [pool.submit(gate.wait, PATIENCE_S)]
    with no_new_threads(monkeypatch):
        queued = pool.submit(called.append, 3)
    waiting.append(pool.submit(gate.wait, PATIENCE_S))
    queued.result(PATIENCE_S)
    gate.set()
    assert [future.result(PATIENCE_S) for future in waiting] == [True, True]
    assert called == [3]


def test_the_threads_end_with_the_pool() -> None:
    """`DaemonPool`: a thread refers to the queue and not to the pool."""
    pool = DaemonPool(2, "test-gone")
    pool.submit(abs, 1).result(PATIENCE_S)
    del pool
    gc.collect()
    eventually(lambda: not any(t.name.startswith("test-gone-") for t in threading.enumerate()))


def test_the_interpreter_ends_during_work() -> None:
    """`DaemonPool`: the threads are daemons."""
    program = (
        "import time\n"
        "from taskfs.support.thread_pool import DaemonPool\n"
        "pool = DaemonPool(2, 'x')\n"
        "for _ in range(5): pool.submit(time.sleep, 600)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=True)

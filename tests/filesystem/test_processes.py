"""fsspec: threads, forked and spawned processes, and how they end."""

import errno
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import fsspec
import pytest

from taskfs.fsspec.filesystem import TaskFileSystem
from taskfs.fsspec.shared_core import SharedCore
from tests.fake_api import FakeCloud, begin_of
from tests.fork_server import ROOT
from tests.mounts import eventually
from tests.threads import started_threads
from tests.zips import cheap_bytes

WORDS: Final = cheap_bytes(2_000_000)
TIMEOUT_S: Final = 60.0


def read_end(fs: TaskFileSystem, file: Any, path: str, answer: Any) -> None:
    """Read in a child process: a new file, and one that it inherited."""
    answer.put((fs.cat_file(path, -10), file.read(10), fs.size(path)))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
# Python 3.12 and newer warn of a fork while threads run; this test shows that it works.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_processes(by_environment: FakeCloud, method: str) -> None:
    """P-13: File systems and open files work in forked and spawned processes."""
    task = by_environment.add_task(outputs={"a": WORDS})
    path = f"{task}/outputs/a"
    fs = fsspec.filesystem("taskfs")
    with fs.open(path) as file:
        file.seek(1_000_000)
        assert file.read(10) == WORDS[1_000_000:1_000_010]  # threads and connections are in use
        context = multiprocessing.get_context(method)
        answer = context.Queue()
        child = context.Process(target=read_end, args=(fs, file, path, answer))  # type: ignore[attr-defined]
        child.start()
        assert answer.get(timeout=TIMEOUT_S) == (
            WORDS[-10:],
            WORDS[1_000_010:1_000_020],
            len(WORDS),
        )
        child.join(TIMEOUT_S)
        assert child.exitcode == 0
        assert file.read(10) == WORDS[1_000_010:1_000_020]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_may_hold_no_lock_of_its_parent(by_environment: FakeCloud) -> None:
    """P-13: A fork while the parent's threads work leaves the child no held lock."""
    task = by_environment.add_task(outputs={f"{n}": WORDS[: 50_000 + n] for n in range(40)})
    fs = fsspec.filesystem("taskfs", cache_size=0)
    paths = [f"{task}/outputs/{n}" for n in range(40)]
    stopped = threading.Event()

    def keep_reading() -> None:
        while not stopped.is_set():
            fs.cat(paths)
            fs.invalidate_cache()

    reader = threading.Thread(target=keep_reading)
    reader.start()
    try:
        for n in range(10):
            child = os.fork()
            if child == 0:
                try:
                    os._exit(0 if fs.cat_file(paths[n], -5) == WORDS[: 50_000 + n][-5:] else 1)
                finally:
                    os._exit(2)
            states: list[int] = []

            def is_over(child: int = child, states: list[int] = states) -> bool:
                pid, status = os.waitpid(child, os.WNOHANG)
                states.append(os.waitstatus_to_exitcode(status))
                return pid == child

            eventually(is_over)
            assert states[-1] == 0
    finally:
        stopped.set()
        reader.join(TIMEOUT_S)


def read_twice(file: Any, answer: Any) -> None:
    """Send the errnos of two reads in a child process, 0 for one that succeeds."""
    for _ in range(2):
        try:
            file.read(10)
            answer.put(0)
        except OSError as exc:
            answer.put(exc.errno)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reads_no_other_version(by_environment: FakeCloud) -> None:
    """P-5, P-13, F-8: Each read of an inherited file whose archive was replaced is ESTALE."""
    task = by_environment.add_task(outputs={"a": WORDS})
    fs = fsspec.filesystem("taskfs", cache_size=0)
    with fs.open(f"{task}/outputs/a") as file:
        file.seek(1_000_000)
        other = by_environment.add_task(outputs={"a": WORDS[::-1]})
        stored = by_environment.get_object(f"{other}/output.zip")
        assert stored is not None
        by_environment.put_object(f"{task}/output.zip", stored.source)
        context = multiprocessing.get_context("fork")
        answer = context.Queue()
        child = context.Process(target=read_twice, args=(file, answer))
        child.start()
        assert [answer.get(timeout=TIMEOUT_S) for _ in range(2)] == [errno.ESTALE] * 2
        child.join(TIMEOUT_S)
        assert child.exitcode == 0


def core_of(fs: TaskFileSystem, path: str) -> SharedCore:
    """Return the core that *fs* opens files with."""
    handle, shared = fs.open_handle(path)
    handle.close()
    return shared


def test_threads_share_one_core(by_environment: FakeCloud) -> None:
    """P-14: fsspec makes an instance for each thread, and all share connections and caches."""
    task = by_environment.add_task(outputs={"a": WORDS})
    found = []

    def read() -> None:
        fs = fsspec.filesystem("taskfs")
        found.append((fs, fs.cat_file(f"{task}/outputs/a") == WORDS))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert [right for _, right in found] == [True] * 6
    cores = [core_of(fs, f"{task}/status") for fs, _ in found]
    assert len(set(map(id, cores))) == 1
    paths = [record.path for record in by_environment.requests]
    assert paths.count("/tasks") == 1
    other = fsspec.filesystem("taskfs", timeout="7s")
    assert core_of(other, f"{task}/status") is not cores[0]


def test_nothing_is_left_behind(by_environment: FakeCloud) -> None:
    """P-15: Threads end with the last instance."""
    task = by_environment.add_task(outputs={"a": WORDS})
    fsspec.filesystem("taskfs", timeout="9s").ls("")  # starts the one thread of the process
    before = set(threading.enumerate())
    fs = fsspec.filesystem("taskfs", skip_instance_cache=True)
    assert fs.cat([f"{task}/outputs/a", f"{task}/status"])
    mine = [t for t in set(threading.enumerate()) - before if t.name.startswith("taskfs-")]
    assert mine
    del fs

    def have_ended() -> bool:
        gc.collect()  # a thread of the pool may have held the last reference
        return not any(thread.is_alive() for thread in mine)

    eventually(have_ended)


@pytest.mark.parametrize("options", [{}, {"cache_type": "none"}], ids=["file", "blockcache"])
def test_unclosed_files_are_closed_by_the_next_open(
    by_environment: FakeCloud, options: dict[str, Any]
) -> None:
    """P-15: A file that was never closed is released by the next open, not within the garbage
    collection, which may run while locks are held.
    """
    task = by_environment.add_task(outputs={"a": WORDS})
    fs = fsspec.filesystem("taskfs")
    path = f"{task}/outputs/a"
    core = core_of(fs, path)
    fs.open(path, **options).read(10)
    ring: list[Any] = [fs.open(path, **options)]
    ring.append(ring)
    del ring
    gc.collect()
    assert 1 <= len(core.abandoned_handles) <= 2
    fs.open(path).close()
    assert not core.abandoned_handles


PROGRAM: Final = """
import fsspec, sys
fs = fsspec.filesystem("taskfs", timeout="120s")
file = fs.open(sys.argv[1])
for _ in range(15):
    assert len(file.read(100_000)) == 100_000
assert 'fuse' not in sys.modules
print("read", flush=True)
sys.stdin.readline()
"""


def test_exit_waits_for_no_request(by_environment: FakeCloud) -> None:
    """P-15: The interpreter ends at once, also while the store is silent during read-ahead, and no
    FUSE was loaded.
    """
    noise = os.urandom(16_000_000)
    task = by_environment.add_task(outputs={"a": noise})
    stall = by_environment.faults.add(
        "stall",
        side="store",
        times=None,
        after_bytes=1000,
        match=lambda record: begin_of(record) > 2_000_000,
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, f"{task}/outputs/a"],
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT), "TASKFS_CACHE_SIZE": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(lambda: stall.hits > 0 or process.poll() is not None)
        began = time.monotonic()
        out, err = process.communicate("\n", timeout=100)
        assert (process.returncode, out, err) == (0, "read\n", "")
        assert stall.hits
        assert time.monotonic() - began < 35  # a try waits 40 s for the silent store
    finally:
        process.kill()
        process.wait()


def test_an_instance_costs_nothing(
    cloud: FakeCloud, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P-11: An instance sends nothing and looks for no key, so a scheduler may pass on what it
    cannot use."""
    with started_threads(monkeypatch) as started:
        fsspec.filesystem("taskfs", api_url=cloud.api_url, timeout="9s")
    assert started == []
    assert not cloud.requests
    assert not home.exists()

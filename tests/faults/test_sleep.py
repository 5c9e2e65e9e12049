"""A laptop's sleep: clocks jump, connections die unseen, the daemon stands still."""

import contextlib
import email.utils
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from taskfs.remote.api_client import TaskClient
from taskfs.support.stats import Stats
from tests.conftest import in_process
from tests.fake_api import FakeCloud
from tests.faults.relay import relay_to
from tests.faults.scenarios import finished, read_whole
from tests.file_systems import Mounted, text
from tests.mounts import Mount, eventually
from tests.outputs import noise

HOURS_S: Final = 8 * 3600.0
IDLE: Final = 6
TIMEOUT_S: Final = 15  # a third of it for each try: a busy machine answers in time


class Clocks:
    """The patched clocks: `slept_s` is time asleep, `set_s` a change of the wall clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept_s = 0.0
        self.set_s = 0.0
        gettime, now_s, now_ns = time.clock_gettime, time.time, time.time_ns

        def clock_gettime(clock: int) -> float:
            return gettime(clock) + (self.slept_s if clock == time.CLOCK_BOOTTIME else 0.0)

        monkeypatch.setattr(time, "clock_gettime", clock_gettime)
        monkeypatch.setattr(time, "time", lambda: now_s() + self.slept_s + self.set_s)
        monkeypatch.setattr(
            time, "time_ns", lambda: now_ns() + int((self.slept_s + self.set_s) * 1e9)
        )


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.fixture
def stats() -> Stats:
    return Stats()


@pytest.fixture
def client(cloud: FakeCloud, stats: Stats) -> Iterator[Callable[[str], TaskClient]]:
    """Opens clients of a URL that all count in `stats`."""
    with contextlib.ExitStack() as stack:

        def open_client(url: str) -> TaskClient:
            client = TaskClient(url, cloud.api_key, timeout_s=TIMEOUT_S, stats=stats)
            stack.callback(client.close)
            return client

        yield open_client


def test_what_is_known_ages_while_the_machine_sleeps(
    cloud: FakeCloud, tmp_path: Path, clocks: Clocks
) -> None:
    """F-16, F-1, F-2: Listings and statuses age while the machine sleeps."""
    task = cloud.add_task(status="started")
    with in_process(cloud, tmp_path, {}) as fs:
        assert text(fs, f"{task}/status") == "started\n"
        cloud.set_status(task, "success")
        younger = cloud.add_task()
        clocks.slept_s += HOURS_S
        assert text(fs, f"{task}/status") == "success\n"
        assert younger in fs.names()


@pytest.mark.parametrize("jump_s", [-HOURS_S, HOURS_S, -30 * 365 * 86400.0])
def test_a_clock_that_is_set_changes_nothing(
    cloud: FakeCloud, tmp_path: Path, clocks: Clocks, jump_s: float
) -> None:
    """F-16: A clock that is set moves no age backward, and no reader waits for the archive of a
    task that ended long ago."""
    tell_true_time(cloud)
    body = noise(1, 100_000)
    task, running = finished(cloud, a=body), cloud.add_task(status="computation-started")
    empty = cloud.add_task(end_time="2025-06-11T08:00:00+00:00")
    with in_process(cloud, tmp_path, {"timeout": "3s"}) as fs:
        assert text(fs, f"{running}/status") == "computation-started\n"
        clocks.set_s += jump_s
        time.sleep(2.1)
        assert text(fs, f"{running}/status") == "computation-started\n"
        read_whole(fs, f"{task}/outputs/a", body)
        assert fs.names(f"{empty}/outputs") == []
        assert {task, running} <= set(fs.names())
        assert text(fs, f"{running}/status") == "computation-started\n"
        assert not text(fs, f"{running}/computation_time").startswith("-")
        cloud.set_status(running, "failed")
        time.sleep(2.1)
        assert text(fs, f"{running}/status") == "failed\n"


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0])
def test_the_wait_for_an_archive_goes_by_the_apis_clock(
    cloud: FakeCloud, tmp_path: Path, clocks: Clocks, jump_s: float
) -> None:
    """F-13, F-16: The 60 s of waiting go by the clock that wrote the end."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    tell_true_time(cloud)
    clocks.set_s += jump_s
    task = cloud.add_task(end_time=now)
    with in_process(cloud, tmp_path, {"timeout": "10s"}) as fs:
        fs.names()
        late = threading.Timer(1.0, lambda: cloud.put_object(f"{task}/output.zip", archive))
        archive = archive_of(cloud)
        late.start()
        assert fs.names(f"{task}/outputs") == ["a"]
        late.join()


def tell_true_time(cloud: FakeCloud) -> None:
    """Make the API send the correct time, independent of the patched clocks."""
    now = email.utils.formatdate(time.time(), usegmt=True)
    cloud.faults.add("header", side="api", times=None, name="Date", value=now)


def archive_of(cloud: FakeCloud) -> bytes:
    stored = cloud.get_object(f"{finished(cloud, a=b'a')}/output.zip")
    assert stored is not None
    return bytes(stored.source.read(0, stored.source.size))


def fill_pool(client: TaskClient, cloud: FakeCloud) -> None:
    """Open `IDLE` idle connections by as many concurrent requests."""
    stall = cloud.faults.add("stall", side="api", times=None)
    with ThreadPoolExecutor(IDLE) as pool:
        asked = [pool.submit(client.list_projects) for _ in range(IDLE)]
        eventually(lambda: stall.hits == IDLE)
        cloud.faults.clear()
        for each in asked:
            each.result()


def test_connections_that_died_asleep_are_not_used(
    cloud: FakeCloud, client: Callable[[str], TaskClient], stats: Stats, clocks: Clocks
) -> None:
    """X-12: Connections that were idle for the length of a sleep are not used again."""
    with relay_to(cloud.api.port) as relay:
        api = client(relay.url)
        fill_pool(api, cloud)
        assert relay.accepted == IDLE
        relay.forget_all()
        clocks.slept_s += HOURS_S
        cloud.clear_requests()
        retries = stats.snapshot().get("api_retries", 0)
        api.list_projects()
        assert stats.snapshot().get("api_retries", 0) == retries
        assert relay.accepted == IDLE + 1


def test_one_dead_connection_is_enough_to_distrust_the_others(
    cloud: FakeCloud, client: Callable[[str], TaskClient], stats: Stats
) -> None:
    """X-12, X-15: The first dead connection costs a stall, and its idle neighbours are dropped."""
    with relay_to(cloud.api.port) as relay:
        api = client(relay.url)
        fill_pool(api, cloud)
        relay.forget_all()
        api.list_projects()
        assert stats.snapshot()["api_retries"] == 1
        assert relay.accepted == IDLE + 1


@pytest.mark.mount
@pytest.mark.usefixtures("each_engine")
def test_a_stopped_daemon_continues(new_mount: Callable[..., Mount]) -> None:
    """X-12: A read in flight while the daemon was stopped gets its bytes, although its connections
    were cut."""
    mount = new_mount()
    cloud = mount.cloud
    body = noise(3, 3_000_000)
    task = finished(cloud, a=body, z=noise(1, 200_000))
    fs = Mounted(cloud, mount.path)
    assert fs.stat(f"{task}/outputs/a").st_size == len(body)
    cloud.store.bandwidth_per_connection = 2_000_000
    daemon = mount.pid
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_whole, fs, f"{task}/outputs/a", body)
        time.sleep(0.4)
        os.kill(daemon, signal.SIGSTOP)
        try:
            cloud.pause()
            time.sleep(0.6)
            cloud.resume()
        finally:
            os.kill(daemon, signal.SIGCONT)
        reading.result(60)
    assert (mount.path / task / "status").read_text() == "success\n"

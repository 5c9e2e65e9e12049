"""Mounts for faults: a patient one, which many tests share, and a hasty one that gives up soon.

Each test makes its own tasks, so what another did to the mount does not show. What must survive
runs on `patient`; what must fail, and then be well again, on `hasty`.
"""

from collections.abc import Iterator

import pytest

from taskfs.remote.transport import Transport
from taskfs.support.stats import Stats
from tests.conftest import on_mount
from tests.fake_api import FakeCloud
from tests.mounts import Mount
from tests.surfaces import Mounted

# So soon that a test may wait for it, so late that a busy machine still answers.
HASTY = {
    "timeout": "1s",
    "attr_timeout": "0s",
    "status_cache_time": "0s",
    "dir_cache_time": "0s",
}


@pytest.fixture
def patient(shared_cloud: FakeCloud, shared_mount: Mount) -> Iterator[Mounted]:
    """A real mount that tries for 6 s."""
    yield Mounted(shared_cloud, shared_mount.path)
    shared_cloud.faults.clear()
    shared_mount.check_log()


@pytest.fixture(scope="session")
def hasty_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeCloud, Mount]]:
    with FakeCloud() as cloud, on_mount(cloud, tmp_path_factory.mktemp("hasty"), HASTY) as mount:
        yield cloud, mount
        assert cloud.store.leaked_keys == []


@pytest.fixture
def hasty(hasty_mount: tuple[FakeCloud, Mount]) -> Iterator[Mounted]:
    """A real mount that tries for 1 s and keeps nothing of the API's."""
    cloud, mount = hasty_mount
    yield Mounted(cloud, mount.path)
    cloud.faults.clear()
    cloud.resume()
    mount.check_log()


@pytest.fixture
def transport() -> Iterator[Transport]:
    """The store's side of the network, without a mount."""
    transport = Transport(timeout_s=3, stats=Stats(), side="store")
    yield transport
    transport.close()

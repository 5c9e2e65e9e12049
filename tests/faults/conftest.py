"""Fixtures for fault tests: shared mounts with a long and a short timeout, transport and logger.

Each test creates its own tasks, so it does not see the effects of others. Faults that taskfs must
survive run on `patient`; faults that must fail, and recover, run on `hasty`.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskfs.remote.transport import Transport
from taskfs.support.stats import Stats
from tests.conftest import ON_ENGINES, on_mount, share_mount
from tests.fake_api import FakeCloud
from tests.file_systems import Mounted
from tests.mounts import Mount

# Short enough for a test to wait, long enough for a busy machine to answer.
HASTY = {
    "timeout": "1s",
    "attr_timeout": "0s",
    "status_cache_time": "0s",
    "dir_cache_time": "0s",
}


@pytest.fixture(params=ON_ENGINES)
def shared_mnt(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The shared mount of each engine."""
    for mount in share_mount(request, request.param):
        yield mount.path


@pytest.fixture
def patient(shared_cloud: FakeCloud, shared_mount: Mount) -> Iterator[Mounted]:
    """A real mount with a timeout of 6 s."""
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
    """A real mount with a timeout of 1 s that caches no answer of the API."""
    cloud, mount = hasty_mount
    yield Mounted(cloud, mount.path)
    cloud.faults.clear()
    cloud.resume()
    mount.check_log()


@pytest.fixture
def transport() -> Iterator[Transport]:
    """A transport to the store, without a mount."""
    transport = Transport(timeout_s=3, stats=Stats(), endpoint="store")
    yield transport
    transport.close()


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The logger of taskfs; its handlers and level are restored after the test."""
    logger = logging.getLogger("taskfs")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    raises = logging.raiseExceptions
    yield logger
    for handler in logger.handlers:
        if handler not in handlers:
            handler.close()
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)
    logging.raiseExceptions = raises

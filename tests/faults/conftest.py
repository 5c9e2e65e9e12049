"""Fixtures for fault tests: shared mounts with long and short timeouts, transport and logger.

Each test creates its own tasks, so it does not see the effects of others. Faults that taskfs must
survive run on `patient`, or on `unlisting` if the record of a new task is among what fails. Faults
that must fail, and recover, run on `uncached`, or on `hasty` if taskfs retries them until the
timeout.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskfs.remote.transport import Transport
from taskfs.support.stats import Stats
from tests.conftest import ON_BOTH, ON_ENGINES, in_process, on_mount, share_mount
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, InProcess, Mounted
from tests.mounts import Mount

NO_CACHE = {"attr_timeout": "0s", "status_cache_time": "0s", "dir_cache_time": "0s"}
# A listing in the background would bring a new task before its record is requested.
ONE_LISTING = {"timeout": "6s", "dir_cache_time": "1h"}


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
def unlisting_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    folder = tmp_path_factory.mktemp("unlisting")
    with FakeCloud() as cloud, on_mount(cloud, folder, ONE_LISTING) as mount:
        os.listdir(mount.path)
        yield mount


@pytest.fixture(scope="session")
def unlisting_tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    folder = tmp_path_factory.mktemp("unlisting")
    with FakeCloud() as cloud, in_process(cloud, folder, ONE_LISTING) as fs:
        fs.names()
        yield fs


@pytest.fixture
def unlisting(unlisting_mount: Mount) -> Iterator[Mounted]:
    """A real mount that has listed the tasks once: it requests new ones one by one."""
    yield from _cleared(unlisting_mount)


@pytest.fixture(params=ON_BOTH)
def unlisting_fs(request: pytest.FixtureRequest) -> Iterator[FileSystem]:
    """A file system that has listed the tasks once: it requests new ones one by one."""
    name = "unlisting_tree" if request.param == "tree" else "unlisting"
    fs: FileSystem = request.getfixturevalue(name)
    yield fs
    fs.cloud.faults.clear()


@pytest.fixture(scope="session")
def uncached_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    yield from _mounted(tmp_path_factory.mktemp("uncached"), "30s")


@pytest.fixture(scope="session")
def hasty_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    # Short enough for a test to wait, long enough for a busy machine to answer.
    yield from _mounted(tmp_path_factory.mktemp("hasty"), "4s")


@pytest.fixture
def uncached(uncached_mount: Mount) -> Iterator[Mounted]:
    """A real mount with a timeout of 30 s that caches no answer of the API."""
    yield from _cleared(uncached_mount)


@pytest.fixture
def hasty(hasty_mount: Mount) -> Iterator[Mounted]:
    """A real mount with a timeout of 4 s that caches no answer of the API."""
    yield from _cleared(hasty_mount)


def _mounted(folder: Path, timeout: str) -> Iterator[Mount]:
    options = {**NO_CACHE, "timeout": timeout}
    with FakeCloud() as cloud, on_mount(cloud, folder, options) as mount:
        yield mount
        assert cloud.store.leaked_keys == []


def _cleared(mount: Mount) -> Iterator[Mounted]:
    """Yield the file system of a mount; afterwards clear the faults and check the log."""
    yield Mounted(mount.cloud, mount.path)
    mount.cloud.faults.clear()
    mount.cloud.resume()
    mount.check_log()


@pytest.fixture
def transport() -> Iterator[Transport]:
    """A transport to the store, without a mount."""
    transport = Transport(timeout_s=60, stats=Stats(), endpoint="store")
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

"""The semantics are shown on three file systems: in process, on the kernel engine and on fusepy."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ON_ALL, ON_ENGINES, open_file_systems, share_file_system, share_mount
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem


@pytest.fixture(params=ON_ALL)
def fs(request: pytest.FixtureRequest, shared_cloud: FakeCloud) -> Iterator[FileSystem]:
    """A file system shared by many tests: a test looks only at tasks that it created."""
    yield from share_file_system(request, shared_cloud)


@pytest.fixture(params=ON_ALL)
def new_fs(
    request: pytest.FixtureRequest, tmp_path: Path, cloud: FakeCloud
) -> Iterator[Callable[..., FileSystem]]:
    """Opens a file system of the test's own `cloud`, with options such as `timeout="1s"`."""
    yield from open_file_systems(request.param, cloud, tmp_path)


@pytest.fixture(params=ON_ENGINES)
def shared_mnt(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The shared mount of each engine, for tests that need a kernel."""
    for mount in share_mount(request, request.param):
        yield mount.path

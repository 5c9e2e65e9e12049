"""Clouds, trees and mounts for tests.

`fs` runs a scenario in process and on a real mount, which many tests share: each makes its own
tasks. `new_fs` gives both with options of the test's own and a cloud that no other test has seen;
`mnt` and `new_mount` are for what only a kernel shows.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskfs.api_key import Secret
from taskfs.config import Config
from taskfs.core import open_core
from taskfs.options import BY_NAME
from tests.caches import Mounting, Opening
from tests.fake_api import FakeCloud
from tests.mounts import Mount
from tests.surfaces import InProcess, Mounted, Surface

# Short enough that a test may wait for each of them to pass.
QUICK = {"attr_timeout": "100ms", "status_cache_time": "200ms", "dir_cache_time": "300ms"}
SHARED = {**QUICK, "timeout": "6s"}
ON_BOTH = ["tree", pytest.param("mount", marks=pytest.mark.mount)]

# A shell's background jobs ignore Ctrl+C, and so would all that the tests start in one.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The clouds are threads of this process. A child that enters a mount asks one of them before it
# runs its program, and until then vfork(2) would hold this process up.
subprocess._USE_VFORK = False  # type: ignore[attr-defined]


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    with FakeCloud() as cloud:
        yield cloud
        assert cloud.store.leaked_keys == []


def make_config(cloud: FakeCloud, cache_dir: Path, options: dict[str, str]) -> Config:
    """Return the configuration that the flags *options* give, whatever is on this machine."""
    values = {}
    for name, text in options.items():
        option = BY_NAME[name]
        values[option.config_field] = option.parse(text or "true")
    return Config(
        api_url=cloud.api_url, api_key=Secret(cloud.api_key), cache_dir=cache_dir, **values
    )


@contextlib.contextmanager
def in_process(cloud: FakeCloud, cache_dir: Path, options: dict[str, str]) -> Iterator[InProcess]:
    core = open_core(make_config(cloud, cache_dir, options))
    try:
        yield InProcess(cloud, core)
    finally:
        core.close()


@contextlib.contextmanager
def on_mount(cloud: FakeCloud, home: Path, options: dict[str, str]) -> Iterator[Mount]:
    home.mkdir(exist_ok=True)
    place = home / "mnt"
    place.mkdir()
    mount = Mount(cloud, place, home, options)
    try:
        yield mount.start()
    finally:
        mount.stop()
        mount.check_log()


@pytest.fixture
def tree(cloud: FakeCloud, tmp_path: Path) -> Iterator[InProcess]:
    """The operations in process, with the cache times that a user has."""
    with in_process(cloud, tmp_path / "cache", {}) as surface:
        yield surface


@pytest.fixture
def new_mount(tmp_path: Path, cloud: FakeCloud) -> Iterator[Callable[..., Mount]]:
    """Mounts the cloud with options, such as `timeout="1s"`, for as long as the test runs."""
    with contextlib.ExitStack() as stack:
        count = 0

        def mount(**options: str) -> Mount:
            nonlocal count
            count += 1
            return stack.enter_context(on_mount(cloud, tmp_path / f"mount{count}", options))

        yield mount


@pytest.fixture
def mnt(new_mount: Callable[..., Mount]) -> Path:
    """A mount of the cloud, as a user has it."""
    return new_mount().path


@pytest.fixture(params=ON_BOTH)
def new_fs(
    request: pytest.FixtureRequest, tmp_path: Path, cloud: FakeCloud
) -> Iterator[Callable[..., Surface]]:
    """A surface of the test's own `cloud`, with options such as `timeout="1s"`."""
    with contextlib.ExitStack() as stack:

        def surface(**options: str) -> Surface:
            if request.param == "tree":
                return stack.enter_context(in_process(cloud, tmp_path / "cache", options))
            mount = stack.enter_context(on_mount(cloud, tmp_path / "mount", options))
            return Mounted(cloud, mount.path)

        yield surface


@pytest.fixture(scope="session")
def shared_cloud() -> Iterator[FakeCloud]:
    with FakeCloud() as cloud:
        yield cloud
        assert cloud.store.leaked_keys == []


@pytest.fixture(scope="session")
def shared_tree(
    shared_cloud: FakeCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InProcess]:
    with in_process(shared_cloud, tmp_path_factory.mktemp("cache"), SHARED) as surface:
        yield surface


@pytest.fixture(scope="session")
def shared_mount(
    shared_cloud: FakeCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mount]:
    with on_mount(shared_cloud, tmp_path_factory.mktemp("shared"), SHARED) as mount:
        yield mount


@pytest.fixture(params=ON_BOTH)
def fs(request: pytest.FixtureRequest, shared_cloud: FakeCloud) -> Iterator[Surface]:
    """A surface that many tests share: what a test shows of it are the tasks that it made."""
    if request.param == "tree":
        yield request.getfixturevalue("shared_tree")
        shared_cloud.faults.clear()
        return
    mount: Mount = request.getfixturevalue("shared_mount")
    yield Mounted(shared_cloud, mount.path)
    shared_cloud.faults.clear()
    mount.check_log()


@pytest.fixture
def shared_mnt(shared_cloud: FakeCloud, shared_mount: Mount) -> Iterator[Path]:
    """The shared mount alone, for what only a kernel shows."""
    yield shared_mount.path
    shared_cloud.faults.clear()
    shared_mount.check_log()


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory that every user of the machine may enter, unlike those of `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="taskfs-test-") as name:
        place = Path(name)
        place.chmod(0o755)
        yield place


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def opened(cloud: FakeCloud, cache: Path) -> Opening:
    """Opens trees of the cloud in process, all on the one cache of the test."""

    def tree(**options: str) -> contextlib.AbstractContextManager[InProcess]:
        return in_process(cloud, cache, options)

    return tree


@pytest.fixture
def mounted(cloud: FakeCloud, cache: Path, tmp_path: Path) -> Mounting:
    """Mounts the cloud, always on the one cache of the test."""

    @contextlib.contextmanager
    def mount(**options: str) -> Iterator[Mount]:
        home = tmp_path / f"mount{len(os.listdir(tmp_path))}"
        with on_mount(cloud, home, {"cache_dir": str(cache), **options}) as mount:
            yield mount

    return mount

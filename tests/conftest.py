"""Fixtures for clouds, trees and mounts.

`fs` runs a test in process and on a real mount. Tests share it, so each creates its own tasks.
`new_fs` does the same with a new cloud and the options of the test. `mnt` and `new_mount` are for
tests that need a kernel. The tests of semantics/ and mount/, and those of faults/ that are about
the mount, run on both engines: see `ON_ALL`, `ON_ENGINES` and `each_engine`. With the variable
TASKFS_ENGINE=fusepy all mounts use that engine.
"""

import contextlib
import gc
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskfs.api_key import Secret
from taskfs.config import Config
from taskfs.core import open_core
from taskfs.options import BY_NAME
from tests.caches import MountFactory, TreeFactory
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, InProcess, Mounted
from tests.mounts import Mount
from tests.outputs import QUICK

SHARED = {**QUICK, "timeout": "6s"}
ON_BOTH = ["tree", pytest.param("mount", marks=pytest.mark.mount)]
ON_ENGINES = [pytest.param(name, marks=pytest.mark.mount) for name in ("mount", "fusepy")]
ON_ALL = ["tree", *ON_ENGINES]

# Until the end of the collection there is no garbage.
gc.disable()
# Background jobs of a shell ignore SIGINT, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup(1) ignores SIGHUP in the same way.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


class _Popen(subprocess.Popen[Any]):
    """Enters the directory of a child process after exec.

    Python uses vfork(2), which suspends this process until exec. The clouds are threads of this
    process, so a child that changed into a mount before would wait for them forever. fork(2)
    instead takes 20 ms, because it copies the page tables of this process.
    """

    def __init__(self, args: Any, *, cwd: Any = None, **options: Any) -> None:
        if cwd is not None:
            assert not {"executable", "shell"} & options.keys()
            args = ["env", "--chdir", cwd, *([args] if isinstance(args, str) else args)]
        super().__init__(args, **options)


subprocess.Popen = _Popen  # type: ignore[assignment, misc]


def pytest_collection_finish() -> None:
    """Exempt what was imported and collected, a million objects, from garbage collections."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests so that the processes of a run wait at different times.

    xdist gives each process a contiguous part. Most tests wait, and those of unit/ compute: two
    thirds of them come between the others, so that no core is idle, and the rest last, so that no
    process waits alone at the end. The others are dealt out, and each process begins elsewhere
    among them.
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count == 1:
        return
    unit = [item for item in items if "unit" in item.path.parts]
    others = [item for item in items if "unit" not in item.path.parts]
    items.clear()
    for number in range(count):
        part = others[number::count]
        first = number * len(part) // count
        computing = unit[number * len(unit) // count : (number + 1) * len(unit) // count]
        between = 2 * len(computing) // 3 if part else 0
        for place, item in enumerate(part[first:] + part[:first]):
            items.append(item)
            begin, end = (between * at // len(part) for at in (place, place + 1))
            items += computing[begin:end]
        items += computing[between:]


@pytest.fixture(params=["kernel", "fusepy"])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the test on each engine: the mounts that it starts itself, not the shared ones."""
    monkeypatch.setenv("TASKFS_ENGINE", request.param)


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    with FakeCloud() as cloud:
        yield cloud
        assert cloud.store.leaked_keys == []


def make_config(cloud: FakeCloud, cache_dir: Path, options: dict[str, str]) -> Config:
    """Return the configuration for flags *options*; environment and files are ignored."""
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
    mountpoint = home / "mnt"
    mountpoint.mkdir()
    mount = Mount(cloud, mountpoint, home, options)
    try:
        yield mount.start()
    finally:
        mount.stop()
        mount.check_log()


@pytest.fixture
def tree(cloud: FakeCloud, tmp_path: Path) -> Iterator[InProcess]:
    """The operations in process, with the default cache times."""
    with in_process(cloud, tmp_path / "cache", {}) as fs:
        yield fs


@pytest.fixture
def new_mount(tmp_path: Path, cloud: FakeCloud) -> Iterator[Callable[..., Mount]]:
    """Mounts the cloud with options such as `timeout="1s"` until the test ends."""
    with contextlib.ExitStack() as stack:
        count = 0

        def mount(**options: str) -> Mount:
            nonlocal count
            count += 1
            return stack.enter_context(on_mount(cloud, tmp_path / f"mount{count}", options))

        yield mount


@pytest.fixture
def mnt(new_mount: Callable[..., Mount]) -> Path:
    """A mount of the cloud with the default options."""
    return new_mount().path


def open_file_systems(
    kind: str, cloud: FakeCloud, folder: Path
) -> Iterator[Callable[..., FileSystem]]:
    """Yield a function that opens a file system of *kind* with options, until the fixture ends."""
    with contextlib.ExitStack() as stack:

        def open_one(**options: str) -> FileSystem:
            if kind == "tree":
                return stack.enter_context(in_process(cloud, folder / "cache", options))
            if kind == "fusepy":
                options = {**options, "engine": "fusepy"}
            mount = stack.enter_context(on_mount(cloud, folder / "mount", options))
            return Mounted(cloud, mount.path)

        yield open_one


@pytest.fixture(params=ON_BOTH)
def new_fs(
    request: pytest.FixtureRequest, tmp_path: Path, cloud: FakeCloud
) -> Iterator[Callable[..., FileSystem]]:
    """Opens a file system of the test's own `cloud`, with options such as `timeout="1s"`."""
    yield from open_file_systems(request.param, cloud, tmp_path)


@pytest.fixture(scope="session")
def shared_cloud() -> Iterator[FakeCloud]:
    with FakeCloud() as cloud:
        yield cloud
        assert cloud.store.leaked_keys == []


@pytest.fixture(scope="session")
def shared_tree(
    shared_cloud: FakeCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InProcess]:
    with in_process(shared_cloud, tmp_path_factory.mktemp("cache"), SHARED) as fs:
        yield fs


@pytest.fixture(scope="session")
def shared_mount(
    shared_cloud: FakeCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mount]:
    with on_mount(shared_cloud, tmp_path_factory.mktemp("shared"), SHARED) as mount:
        yield mount


@pytest.fixture(scope="session")
def shared_fusepy(
    shared_cloud: FakeCloud, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mount]:
    options = {**SHARED, "engine": "fusepy"}
    with on_mount(shared_cloud, tmp_path_factory.mktemp("fusepy"), options) as mount:
        yield mount


def share_mount(request: pytest.FixtureRequest, kind: str) -> Iterator[Mount]:
    """Yield the shared mount of an engine; check its log and clear the faults afterwards."""
    fixture = "shared_fusepy" if kind == "fusepy" else "shared_mount"
    mount: Mount = request.getfixturevalue(fixture)
    yield mount
    mount.cloud.faults.clear()
    mount.check_log()


def share_file_system(request: pytest.FixtureRequest, cloud: FakeCloud) -> Iterator[FileSystem]:
    """Yield the shared file system that the fixture's parameter names."""
    if request.param == "tree":
        yield request.getfixturevalue("shared_tree")
        cloud.faults.clear()
        return
    for mount in share_mount(request, request.param):
        yield Mounted(cloud, mount.path)


@pytest.fixture(params=ON_BOTH)
def fs(request: pytest.FixtureRequest, shared_cloud: FakeCloud) -> Iterator[FileSystem]:
    """A file system shared by many tests: a test looks only at tasks that it created."""
    yield from share_file_system(request, shared_cloud)


@pytest.fixture
def shared_mnt(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The shared mount, for tests that need a kernel."""
    for mount in share_mount(request, "mount"):
        yield mount.path


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory that every user of the machine may enter, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="taskfs-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def open_tree(cloud: FakeCloud, cache: Path) -> TreeFactory:
    """Opens trees of the cloud in process; all use the cache of the test."""

    def tree(**options: str) -> contextlib.AbstractContextManager[InProcess]:
        return in_process(cloud, cache, options)

    return tree


@pytest.fixture
def mounted(cloud: FakeCloud, cache: Path, tmp_path: Path) -> MountFactory:
    """Mounts the cloud; all mounts use the cache of the test."""

    @contextlib.contextmanager
    def mount(**options: str) -> Iterator[Mount]:
        home = tmp_path / f"mount{len(os.listdir(tmp_path))}"
        with on_mount(cloud, home, {"cache_dir": str(cache), **options}) as mount:
            yield mount

    return mount

"""The fsspec file system over the test's cloud, without the settings of this machine."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskfs.fsspec.filesystem import TaskFileSystem
from tests.fake_api import FakeCloud

NewFs = Callable[..., TaskFileSystem]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home; no variable or file of this machine is read."""
    for name in list(os.environ):
        if name.startswith(("TASKFS_", "INDUCTIVA_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def no_instance_outlives_its_test() -> Iterator[None]:
    """Drop the instances that fsspec caches; a core closes when its last instance is gone."""
    yield
    TaskFileSystem.clear_instance_cache()


@pytest.fixture
def new_fs(cloud: FakeCloud, tmp_path: Path) -> NewFs:
    """Return a function that makes a file system with more options, such as `timeout="1s"`."""

    def make(**options: Any) -> TaskFileSystem:
        return TaskFileSystem(
            **{
                "api_url": cloud.api_url,
                "api_key": cloud.api_key,
                "cache_dir": str(tmp_path / "cache"),
                "skip_instance_cache": True,
                **options,
            }
        )

    return make


@pytest.fixture
def remote(new_fs: NewFs) -> TaskFileSystem:
    """The file system with the default cache times."""
    return new_fs()


@pytest.fixture
def by_environment(cloud: FakeCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCloud:
    """The cloud, with its address and key where the service's own client has them."""
    monkeypatch.setenv("INDUCTIVA_API_URL", cloud.api_url)
    monkeypatch.setenv("INDUCTIVA_API_KEY", cloud.api_key)
    monkeypatch.setenv("TASKFS_CACHE_DIR", str(tmp_path / "cache"))
    return cloud

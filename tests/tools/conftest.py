"""The fixtures of the fsspec file system, for tests of libraries that use it."""

from tests.filesystem.conftest import (
    by_environment,
    home,
    new_fs,
    no_core_outlives_its_cloud,
    remote,
)

__all__ = ["by_environment", "home", "new_fs", "no_core_outlives_its_cloud", "remote"]
